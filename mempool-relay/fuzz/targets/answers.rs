#![no_main]

use ghost_mempool_relay::reconcile::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::answers(data));
