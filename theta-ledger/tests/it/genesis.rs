//! Genesis files: read, verified, refused, written.

use theta_ledger::{error::SnapshotError, genesis::Genesis};

use super::{fixture, hash, json, text};

#[test]
fn the_main_network() {
    let file = fixture("mainnet.genesis");
    let genesis = Genesis::read(&file, None).unwrap();
    let summary = genesis.summary();
    assert_eq!(
        format!("{:?}", summary.block_hash),
        "0xd8836c6cf3c3ccea0b015b4ed0f9efb0ffe6254db793a515843c9d0f68cbab65"
    );
    assert_eq!(summary.records, 26_357);
    assert_eq!(summary.validators.len(), 7);
    assert_eq!(summary.theta_wei, theta_core::amount::ThetaWei::whole(790_000_000));
    assert_eq!(summary.staked_theta_wei, theta_core::amount::ThetaWei::whole(210_000_000));
    assert_eq!(summary.tfuel_wei, theta_core::amount::TFuelWei::whole(5_000_000_000));
    assert_eq!(summary.timestamp, 1_552_675_026);
    assert!(genesis.changes_validators());
    assert!(genesis.write() == file, "writing gives the same bytes");
    let case = &json("ledger.json")["genesis"][0];
    assert_eq!(hash(&case["state_root"]), summary.state_root);
    assert_eq!(text(&case["chain_id"]), summary.chain_id);
}

#[test]
fn a_private_network() {
    let file = fixture("privatenet.genesis");
    let genesis = Genesis::read(&file, None).unwrap();
    assert_eq!(
        format!("{:?}", genesis.hash()),
        "0xa01e8a75e33586ccaf354d4e1377dda94e36fbce310720682984d5427b80aa81"
    );
    assert!(genesis.write() == file, "writing gives the same bytes");
}

/// Every cut and every flipped bit of the small file; its records are of the same kinds as the large one's.
#[test]
fn every_cut_and_every_flipped_byte_is_refused_with_its_place() {
    let file = fixture("privatenet.genesis");
    for cut in 0..file.len() {
        let error = Genesis::read(&file[..cut], None).expect_err("cut");
        let placed = matches!(error, SnapshotError::Cut { .. } | SnapshotError::Unexpected { .. });
        assert!(placed, "cut at {cut}: {error}");
        assert!(error.to_string().contains("byte"), "{error}");
    }
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1 << (at % 8);
        let error = Genesis::read(&bad, None).expect_err("flipped");
        assert!(error.to_string().contains("byte"), "byte {at}: {error}");
    }
    let longer = [file.as_slice(), &[0]].concat();
    assert!(matches!(Genesis::read(&longer, None), Err(SnapshotError::Cut { .. })));
}

#[test]
fn flipped_bytes_of_the_large_file_are_refused() {
    let file = fixture("mainnet.genesis");
    for at in [0, 9, 500, 1_000_000, 2_345_678, file.len() - 1] {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        assert!(Genesis::read(&bad, None).is_err(), "byte {at}");
    }
    let other = theta_core::hash::Hash::repeat_byte(1);
    assert!(matches!(Genesis::read(&file, Some(other)), Err(SnapshotError::OtherGenesis { .. })));
}
