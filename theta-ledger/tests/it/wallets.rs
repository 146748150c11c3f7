//! Transactions made by other clients: decoded, encoded again, verified, and made here from their keys and fields.

use num_bigint::BigUint;
use serde_json::Value;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    bls::{PublicKey, Signature as BlsSignature, Suite},
    codec::rlp::Encode,
    hash::{Address, U256, keccak},
    sign::{SecretKey, Signature},
};
use theta_ledger::tx::{
    Body, DepositStake, DepositStakeV2, Purpose, RawTx, Send, Signatures, SmartContract,
    StakeRewardDistribution, Transaction, TxCoins, TxInput, TxOutput, Unsigned, WithdrawStake,
    ethereum::{self, Access, Typed, WalletTx},
};

use super::{bytes, hash, json, text};

fn who(value: &Value) -> Address {
    text(value).parse().unwrap()
}

fn big(value: &Value) -> BigUint {
    value.as_str().map_or_else(|| value.as_u64().unwrap().into(), |text| text.parse().unwrap())
}

fn theta(wei: BigUint) -> TxCoins {
    TxCoins { theta: wei, tfuel: BigUint::ZERO }
}

fn tfuel(wei: BigUint) -> TxCoins {
    TxCoins { theta: BigUint::ZERO, tfuel: wei }
}

fn input(address: Address, coins: TxCoins, fields: &Value) -> TxInput {
    let sequence = fields["sequence"].as_u64().unwrap();
    TxInput { address, coins, sequence, signature: Signature::EMPTY }
}

fn made<T: Body + Into<Transaction>>(case: &Value, body: T) -> RawTx {
    let key: SecretKey = text(&case["privateKey"]).parse().unwrap();
    let unsigned = Unsigned::new(text(&case["chainId"]), body);
    assert_eq!(unsigned.sign_bytes(), bytes(&case["signBytes"]), "{}", case["id"]);
    assert_eq!(unsigned.digest(), hash(&case["signHash"]));
    let raw = unsigned.sign(&key).unwrap();
    assert_eq!(key.address(), who(&case["address"]));
    raw
}

#[test]
fn theta_js_transactions() {
    let cases = json("theta-js-tx.json");
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let fields = &case["fields"];
        let fee = || tfuel(big(&fields["gasPrice"]));
        let stake = || {
            let amount = big(&fields["amount"]);
            // The older class of theta-js knows Theta only.
            if fields["purpose"] == 2 && case["typeId"] == 10 { tfuel(amount) } else { theta(amount) }
        };
        let to = |key: &str| TxOutput { address: who(&fields[key]), coins: TxCoins::default() };
        let purpose = || Purpose(fields["purpose"].as_u64().unwrap() as u8);
        let raw = match text(&case["type"]) {
            "SendTx" => {
                let outputs: Vec<_> = fields["outputs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|output| TxOutput {
                        address: who(&output["address"]),
                        coins: TxCoins { theta: big(&output["thetaWei"]), tfuel: big(&output["tfuelWei"]) },
                    })
                    .collect();
                let total = TxCoins {
                    theta: outputs.iter().map(|output| &output.coins.theta).sum(),
                    tfuel: outputs.iter().map(|output| &output.coins.tfuel).sum::<BigUint>() + fee().tfuel,
                };
                made(
                    case,
                    Send { fee: fee(), inputs: vec![input(who(&fields["from"]), total, fields)], outputs },
                )
            }
            "SmartContractTx" => made(
                case,
                SmartContract {
                    from: input(
                        who(&fields["from"]),
                        TxCoins {
                            theta: fields.get("thetaValue").map_or(BigUint::ZERO, big),
                            tfuel: big(&fields["value"]),
                        },
                        fields,
                    ),
                    to: fields["to"].as_str().map_or_else(TxOutput::default, |_| to("to")),
                    gas_limit: fields["gasLimit"].as_u64().unwrap(),
                    gas_price: big(&fields["gasPrice"]),
                    data: bytes(&fields["data"]),
                    typed: None,
                },
            ),
            "DepositStakeTx" => {
                let mut deposit = DepositStake {
                    fee: fee(),
                    source: input(who(&fields["source"]), stake(), fields),
                    holder: to("holder"),
                    purpose: purpose(),
                };
                if purpose() == Purpose::VALIDATOR {
                    made(case, deposit)
                } else {
                    // theta-js signs the older kind's own bytes here, which a node refuses: it wants the newer kind's.
                    let part = [vec![8], deposit.to_rlp()].concat();
                    assert_ne!(part, deposit.signed_part());
                    let signed = theta_ledger::tx::sign_bytes(text(&case["chainId"]), &part, false);
                    assert_eq!(signed, bytes(&case["signBytes"]));
                    let key: SecretKey = text(&case["privateKey"]).parse().unwrap();
                    deposit.attach(key.sign_digest(&keccak(signed)));
                    RawTx::new(deposit.into())
                }
            }
            "DepositStakeTxV2" => made(
                case,
                DepositStakeV2 {
                    fee: fee(),
                    source: input(who(&fields["source"]), stake(), fields),
                    holder: to("holder"),
                    purpose: purpose(),
                    key: Some(PublicKey::parse(&bytes(&fields["blsPubkey"]), Suite::Theta2020).unwrap()),
                    proof: Some(BlsSignature::parse(&bytes(&fields["blsPop"]), Suite::Theta2020).unwrap()),
                    holder_signature: Signature::from_bytes(bytes(&fields["holderSig"])),
                },
            ),
            "WithdrawStakeTx" => made(
                case,
                WithdrawStake {
                    fee: fee(),
                    source: input(who(&fields["source"]), TxCoins::default(), fields),
                    holder: to("holder"),
                    purpose: purpose(),
                },
            ),
            "StakeRewardDistributionTx" => made(
                case,
                StakeRewardDistribution {
                    fee: fee(),
                    holder: input(who(&fields["holder"]), TxCoins::default(), fields),
                    beneficiary: to("beneficiary"),
                    split_basis_point: fields["splitBasisPoint"].as_u64().unwrap(),
                },
            ),
            other => panic!("unknown type {other}"),
        };
        let recorded = bytes(&case["rawTx"]);
        assert_eq!(raw.bytes, recorded, "{}", case["id"]);
        assert_eq!(raw.hash, hash(&case["txHash"]));
        let read = RawTx::decode(recorded).unwrap();
        assert_eq!(read, raw);
        assert_eq!(read.transaction.kind(), case["typeId"].as_u64().unwrap() as u16);
        // Its own signature verifies, and no other key's does.
        let signed = bytes(&case["signBytes"]);
        let window = raw
            .bytes
            .windows(65)
            .filter_map(|window| Signature::from_bytes(window.to_vec()).recover(&keccak(&signed)).ok())
            .any(|signer| signer == who(&case["address"]));
        assert!(window, "{} does not verify", case["id"]);
    }
}

fn wallet(case: &Value) -> WalletTx {
    let fields = &case["fields"];
    let access = || -> Vec<Access> {
        fields["accessList"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| Access {
                address: who(&entry["address"]),
                slots: entry["storageKeys"].as_array().unwrap().iter().map(hash).collect(),
            })
            .collect()
    };
    WalletTx {
        chain_id: big(&case["chainId"]),
        nonce: fields["nonce"].as_u64().unwrap(),
        gas_price: big(if case["type"] == 2 { &fields["maxFeePerGas"] } else { &fields["gasPrice"] }),
        typed: match case["type"].as_u64() {
            Some(0) => None,
            Some(1) => Some(Typed::AccessList(access())),
            _ => Some(Typed::DynamicFee { tip: big(&fields["maxPriorityFeePerGas"]), access: access() }),
        },
        gas: big(&fields["gasLimit"]).try_into().unwrap(),
        to: fields["to"].as_str().map(|to| to.parse().unwrap()),
        value: big(&fields["value"]),
        data: bytes(&fields["data"]),
    }
}

#[test]
fn ethereum_wallets() {
    let cases = json("eth.json");
    let (mut legacy, mut typed) = (0, 0);
    for case in cases.as_array().unwrap() {
        let (raw, id) = (bytes(&case["rawTx"]), &case["id"]);
        assert_eq!(keccak(&raw), hash(&case["txHash"]));
        let (read, signature) = WalletTx::decode(&raw).unwrap();
        assert_eq!(read.encode(&signature), raw, "{id}");
        assert_eq!(read.sender(&signature), Ok(who(&case["from"])), "{id}");
        assert_eq!(read, wallet(case), "{id}");
        if let Some(expected) = case.get("signHash") {
            assert_eq!(read.signing_hash(), hash(expected), "{id}");
        }
        let key: SecretKey = text(&case["privateKey"]).parse().unwrap();
        assert_eq!(wallet(case).sign(&key).unwrap(), raw, "{id}");
        let theta = ethereum::translate(&raw).unwrap();
        let Transaction::SmartContract(transaction) = &theta.transaction else { panic!("another kind") };
        let chain_id = U256::from(case["chainId"].as_u64().unwrap());
        assert_eq!(
            ethereum::ethereum_hash(transaction, chain_id, &Signatures::default()),
            Some(hash(&case["txHash"]))
        );
        let again = RawTx::decode(theta.bytes.clone()).unwrap();
        assert_eq!(again, theta, "{id}");
        // With one more field at the end for typed transactions, the wallet's bytes come out again.
        assert_eq!(transaction.wallet(chain_id).encode(&signature), raw, "{id}");
        if case["type"] != 0 {
            typed += 1;
            continue;
        }
        legacy += 1;
        assert_eq!(theta.bytes, bytes(&case["theta"]["rawTx"]), "{id}");
        assert_eq!(theta.hash, hash(&case["theta"]["txHash"]));
    }
    assert!(legacy == 4 && typed == 4, "{legacy} legacy, {typed} typed");
}

#[test]
fn malformed_wallet_transactions_are_refused() {
    let case = json("eth.json")[0].clone();
    let raw = bytes(&case["rawTx"]);
    for cut in 0..raw.len() {
        assert!(ethereum::translate(&raw[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [raw.as_slice(), &[0]].concat();
    assert!(ethereum::translate(&longer).is_err());
    let coins = Coins { theta: ThetaWei::wei(1), tfuel: TFuelWei::wei(2) };
    assert_eq!(TxCoins::from(coins).coins(), Some(coins));
    let wide = TxCoins { theta: BigUint::from(1_u8) << 256, tfuel: BigUint::ZERO };
    assert_eq!(wide.coins(), None);
}
