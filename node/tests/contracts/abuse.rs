//! Calls that want too much.

use std::time::{Duration, Instant};

use ghost_proto::{Call, message::RpcCode};
use ghost_protocol::client::CallError;
use tokio::task::JoinSet;

use crate::net::{COUNTER, Net, deploy};

/// Jumps back to its own beginning until its gas is used up.
const LOOP: &str = "5b600056";
/// Returns four MiB of zeros for about 34 million gas.
const FLOOD: &str = "624000005ff3";

#[tokio::test(flavor = "multi_thread")]
async fn scenario_35_ten_thousand_endless_calls_are_answered_busy_and_the_session_lives() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let loops = deploy(&net, &client, 0, LOOP).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;

    let endless = Call { to: Some(loops), ..Call::default() };
    let mut asked = JoinSet::new();
    for _ in 0..10_000 {
        let (client, endless) = (client.clone(), endless.clone());
        asked.spawn(async move { client.call(&endless).await });
    }
    let (mut busy, mut ran) = (0, 0);
    for answer in asked.join_all().await {
        match answer {
            Err(CallError::Busy | CallError::Failed { code: RpcCode::RpcBusy, .. }) => busy += 1,
            // Out of gas, or out of time on a slow machine.
            Ok(_) | Err(CallError::Failed { code: RpcCode::RpcInvalid, .. }) => ran += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(busy + ran, 10_000);
    assert!(busy > 9_000, "only {busy} of 10,000 were told to come back");
    assert!(ran > 0);
    // The same session still serves.
    let short = Call { to: Some(counter), ..Call::default() };
    assert_eq!(client.call(&short).await.unwrap().output[31], 1);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_35_a_cancelled_call_frees_the_engine() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let loops = deploy(&net, &client, 0, LOOP).await;
    let endless = Call { to: Some(loops), ..Call::default() };
    // Not short, and done in a few milliseconds.
    let long = Call { gas_limit: 100_000, ..endless.clone() };
    client.call(&long).await.unwrap();

    // Other tests keep the processors busy too: the best of a few rounds counts.
    let mut best = Duration::MAX;
    for _ in 0..5 {
        // More than one peer may have at once: together they would take seconds.
        let mut asked = JoinSet::new();
        for _ in 0..20 {
            let (client, endless) = (client.clone(), endless.clone());
            asked.spawn(async move { client.call(&endless).await });
        }
        // Once one of them is told to come back, as many as may are at the node.
        let first = asked.join_next().await.unwrap().unwrap();
        assert!(matches!(first, Err(CallError::Failed { code: RpcCode::RpcBusy, .. })), "{first:?}");
        let cancelled = Instant::now();
        asked.abort_all();
        loop {
            match client.call(&long).await {
                Ok(_) => break,
                Err(CallError::Failed { code: RpcCode::RpcBusy, .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        best = best.min(cancelled.elapsed());
    }
    assert!(best < Duration::from_millis(50), "the engine was freed after {best:?}");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scenario_35_a_call_that_returns_too_much_is_refused() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let flood = deploy(&net, &client, 0, FLOOD).await;
    let refused = client.call(&Call { to: Some(flood), ..Call::default() }).await;
    let Err(CallError::Failed { code: RpcCode::RpcInvalid, message, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("4194304 bytes"), "{message}");
    client.close().await;
}
