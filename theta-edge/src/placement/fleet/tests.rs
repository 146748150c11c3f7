//! Nodes that are found, filled, given back.

use super::*;
use theta_core::hash::Address;

fn id(number: u64) -> NodeId {
    NodeId(Address::from_word(theta_core::hash::U256::from(number + 1).into()))
}

fn wish<'a>(need: Need, selector: u32, weights: &'a Weights) -> Wish<'a> {
    Wish {
        need,
        selector,
        bid: 10,
        reputation: 0,
        holders: &[],
        exclude: &[],
        exclude_operators: &[],
        speed: 0,
        quick: None,
        replicated: false,
        weights,
    }
}

#[test]
fn buckets_keep_the_order() {
    let mut last = 0;
    for free in (0..100_000).chain([1 << 20, 1 << 24, 1 << 30, u32::MAX]) {
        let at = bucket(free);
        assert!(at >= last && at < 128, "{free}");
        last = at;
    }
}

#[test]
fn the_only_node_that_fits_is_found_among_many_that_do_not() {
    let mut fleet = Fleet::new(1);
    let any = fleet.selector(&Selector::default());
    // All have processor enough, one has memory enough, one other has both and is too dear.
    for number in 0..10_000 {
        let mem_mib = if number % 5_000 == 77 { 4_000 } else { 100 };
        let price = if number == 77 { 11 } else { 1 };
        fleet.join(id(number), &Offer { cpu_milli: 8_000, mem_mib, price, ..Offer::default() });
    }
    let weights = Weights::default();
    let need = Need { cpu_milli: 1_000, mem_mib: 2_000, vram_mib: 0 };
    let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
    assert_eq!(pick.node, 5_077);
    let excluded = Wish { exclude: &[5_077], ..wish(need, any, &weights) };
    assert!(fleet.pick(&excluded, 0, |_, _| {}).is_none());
}

#[test]
fn what_is_reserved_cannot_be_given_twice_and_comes_back() {
    let mut fleet = Fleet::new(1);
    let any = fleet.selector(&Selector { vram_mib: 1, ..Selector::default() });
    let offer = Offer { gpus: 2, vram_mib: 24_000, credits: 8, ..Offer::default() };
    fleet.join(id(0), &offer);
    let weights = Weights::default();
    let need = Need { cpu_milli: 100, mem_mib: 100, vram_mib: 16_000 };
    let mut given = Vec::new();
    while let Some(pick) = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}) {
        given.push(fleet.reserve(&pick, &need, 0).unwrap());
    }
    given.sort_unstable();
    assert_eq!(given, [0, 1], "one on each GPU, though 16 GB are free in all");
    let small = Need { vram_mib: 8_000, ..need };
    let pick = fleet.pick(&wish(small, any, &weights), 0, |_, _| {}).unwrap();
    fleet.release(0, &need, 0);
    assert!(fleet.reserve(&pick, &small, 0).is_none(), "it has changed since");
    assert!(fleet.has(0, &need));
    fleet.close(0);
    assert!(fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).is_none());
    assert_eq!(fleet.total(), [0; 3]);
}

#[test]
fn equal_nodes_share_the_work() {
    let mut fleet = Fleet::new(1);
    let any = fleet.selector(&Selector::default());
    for number in 0..50 {
        fleet.join(id(number), &Offer::default());
    }
    let (weights, need) = (Weights::default(), Need { cpu_milli: 100, mem_mib: 10, vram_mib: 0 });
    let mut count = [0_u32; 50];
    for round in 0..5_000_u64 {
        let now = round * 1_000;
        let pick = fleet.pick(&wish(need, any, &weights), now, |_, _| {}).unwrap();
        let device = fleet.reserve(&pick, &need, now).unwrap();
        fleet.release(pick.node, &need, device);
        count[pick.node as usize] += 1;
    }
    assert!(count.iter().all(|count| (60..=140).contains(count)), "{count:?}");
}

#[test]
fn an_input_draws_its_task_and_a_gpu_is_not_wasted() {
    let mut fleet = Fleet::new(1);
    let any = fleet.selector(&Selector::default());
    for number in 0..100 {
        let gpus = u8::from(number % 2 == 0);
        fleet.join(id(number), &Offer { gpus, vram_mib: 24_000, ..Offer::default() });
    }
    let (weights, need) = (Weights::default(), Need { cpu_milli: 100, mem_mib: 10, vram_mib: 0 });
    let local = Wish { holders: &[51], ..wish(need, any, &weights) };
    assert_eq!(fleet.pick(&local, 0, |_, _| {}).unwrap().node, 51);
    for _ in 0..50 {
        let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
        assert_eq!(pick.node % 2, 1, "no GPU is needed");
    }
}

/// Growth law: a pick looks at no more rows of a fleet ten times as large.
#[test]
fn a_pick_costs_the_same_in_a_fleet_ten_times_as_large() {
    let looked = |nodes: u64| {
        let mut fleet = Fleet::new(1);
        let any = fleet.selector(&Selector::default());
        for number in 0..nodes {
            fleet.join(id(number), &Offer::default());
        }
        let (weights, need) = (Weights::default(), Need { cpu_milli: 500, mem_mib: 10, vram_mib: 0 });
        for _ in 0..nodes {
            let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
            fleet.reserve(&pick, &need, 0).unwrap();
        }
        fleet.looked_at() as f64 / nodes as f64
    };
    let (small, large) = (looked(1_000), looked(10_000));
    assert!(large <= 2.0 * small, "{small} rows in a small one, {large} in a large one");
    assert!(large <= 20.0, "{large}");
}
