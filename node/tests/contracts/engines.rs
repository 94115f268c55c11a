//! One contract on every engine, called the same way.

use bytes::Bytes;
use ghost_node::engine::zvm::{Container, Target};
use ghost_proto::{Action, Address, Call, EngineId, Outcome};
use ghost_protocol::client::{LogFilter, LogQuery};

use crate::net::{COUNTER, Net, call, init, send};

/// The counter in native ZVM bytecode; it has no PUSH0.
const NATIVE: &str = "11011100903017110091110081117711201100f911201100a8";

/// Native init code that returns `code`.
fn native_init(hex: &str) -> Bytes {
    let code = hex::decode(hex).unwrap();
    // PUSH1 len, DUP1, PUSH1 11, PUSH1 0, CODECOPY, PUSH1 0, RETURN
    [&[0x11, code.len() as u8, 0x17, 0x11, 11, 0x11, 0, 0xb9, 0x11, 0, 0xa8], code.as_slice()].concat().into()
}

fn contained(target: Target, code: Bytes) -> Bytes {
    Container { target, code, abi: Bytes::from_static(b"[]") }.encode().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_counter_on_every_engine_gives_the_same_results() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let module = Bytes::from_static(include_bytes!("../../contracts/counter/counter.wasm"));
    let mut counters: Vec<(&str, Address)> = Vec::new();
    for (name, engine, code) in [
        ("evm", EngineId::EVM, init(COUNTER)),
        ("wasm", EngineId::WASM, module.clone()),
        ("zvm_native", EngineId::ZVM, contained(Target::Native, native_init(NATIVE))),
        ("evm_compat", EngineId::ZVM, contained(Target::Evm, init(COUNTER))),
        ("wasm_bridge", EngineId::ZVM, contained(Target::Wasm, module)),
    ] {
        let receipt =
            send(&net, &client, 0, Action::Deploy { engine, value: 0, code, input: Bytes::new() }).await;
        assert_eq!(receipt.outcome, Outcome::Done, "{name}: {receipt:?}");
        counters.push((name, receipt.created.unwrap()));
    }
    let mut topic = [0; 32];
    topic[31] = 0x77;
    for count in 1..=2u8 {
        let mut word = [0; 32];
        word[31] = count;
        for (name, counter) in &counters {
            let ask = Call { to: Some(*counter), ..Call::default() };
            let answer = client.call(&ask).await.unwrap();
            assert_eq!((answer.outcome, answer.output.as_ref()), (Outcome::Done, word.as_slice()), "{name}");
            let simulated = client.simulate(&ask).await.unwrap();
            assert_eq!((simulated.output.as_ref(), simulated.logs.len()), (word.as_slice(), 1), "{name}");
            assert_eq!(simulated.gas_used, answer.gas_used, "{name}");
            let estimate = client.estimate_gas(&ask).await.unwrap();
            assert!(estimate.gas_limit >= simulated.gas_used, "{name}");

            let receipt = send(&net, &client, 0, call(*counter)).await;
            assert_eq!(
                (receipt.outcome, receipt.output.as_ref()),
                (Outcome::Done, word.as_slice()),
                "{name}"
            );
            let log = &receipt.logs[0];
            assert_eq!(
                (log.address, &log.topics, log.data.as_ref()),
                (*counter, &vec![topic], word.as_slice())
            );
            assert_eq!(receipt.gas_used, simulated.gas_used, "{name}");
        }
    }
    for (name, counter) in &counters {
        let page =
            client.logs(&LogQuery { filter: LogFilter::of(*counter), ..LogQuery::default() }).await.unwrap();
        let counts: Vec<_> = page.logs.iter().map(|log| log.entry.data[31]).collect();
        assert_eq!(counts, [1, 2], "{name}");
        let stored = client.storage(*counter, &[[0; 32]], None).await.unwrap();
        assert_eq!(stored[0][31], 2, "{name}");
    }
    client.close().await;
}
