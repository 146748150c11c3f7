// Native transfers signed by theta-js.

import thetajs from "@thetalabs/theta-js";

export const { Wallet, transactions, providers, errors } = thetajs;
export const CHAIN = "privatenet";
/** Least fee of a transfer, in TFuelWei. */
export const FEE = 300_000_000_000_000_000n;
export const WHOLE = 10n ** 18n;

/** An address nobody used before. */
export const freshAddress = () => Wallet.createRandom().address;

/** A signed transfer, hexadecimal without `0x`. */
export function signedSend(privateKey, sequence, to, { theta = 0n, tfuel = 0n, fee = FEE, chain = CHAIN } = {}) {
  const wallet = new Wallet(privateKey, new providers.HttpProvider(chain, "http://unused"));
  const transaction = new transactions.SendTransaction({
    from: wallet.address,
    outputs: [{ address: to, thetaWei: theta.toString(), tfuelWei: tfuel.toString() }],
    gasPrice: fee.toString(),
    sequence,
  });
  return wallet.signTransaction(transaction);
}
