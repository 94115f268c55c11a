//! Alone in its process, because it looks at the memory of the whole of it.

#![allow(clippy::print_stdout)]

mod sync_world;

use std::{sync::Arc, time::Duration};

use ghost_mempool_relay::sync::HEADER_WINDOW_MAX;
use sync_world::{
    Conduct, Remote, World,
    chain::{ROOT, grow},
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn scenario_28_millions_of_headers_that_lead_nowhere_cost_constant_memory_and_no_writes() {
    // Sealed by true authorities, bodies nowhere to be had, longer than the window.
    let endless = Arc::new(grow(ROOT, HEADER_WINDOW_MAX + 2_000, 3, 0));
    let mut world = World::new(&[]);
    for n in 0..24 {
        let liar = Remote::honest(&endless).with(Conduct::SilentBodies);
        world.join(n, Remote { outbound: n < 8, ..liar });
    }
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
    };
    world.run(5 * MINUTE, |_| false);
    let before = resident();
    let enough = world.run(10 * 60 * MINUTE, |world| world.tally.headers_received >= 2_000_000);
    let grown = resident().saturating_sub(before);
    assert!(enough, "{} headers", world.tally.headers_received);
    assert_eq!(world.tally.headers_ahead_max, HEADER_WINDOW_MAX);
    assert_eq!(world.tally.imports, 0, "nothing reaches the store");
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    // And an honest peer among them is still followed.
    let honest = world.join(100, Remote::honest(&Arc::new(grow(ROOT, 200, 0, 4_000))));
    let joined = world.now;

    assert!(world.run_to_height(10 * MINUTE, 200), "{:?}", world.core.progress(world.now));
    assert!(world.is_connected(&honest));
    println!(
        "{} headers; grown {grown} B; honest chain after {:?}",
        world.tally.headers_received,
        world.now - joined
    );
}
