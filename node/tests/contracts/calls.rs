//! Calls and reads, answered as transactions would do.

use bytes::Bytes;
use ghost_proto::{Action, Address, Call, EngineId, Outcome, message::RpcCode};
use ghost_protocol::client::{CallError, LogFilter, LogQuery};

use crate::net::{COUNTER, Net, call, deploy, init, send, until, user};

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_is_called_and_read_over_streams() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;
    assert_eq!(send(&net, &client, 0, call(counter)).await.output[31], 1);

    let ask = Call { from: user(0).address(), to: Some(counter), ..Call::default() };
    let answer = client.call(&ask).await.unwrap();
    assert_eq!((answer.outcome, answer.output[31]), (Outcome::Done, 2));
    // It changed nothing: the same again, and the storage as it was.
    assert_eq!(client.call(&ask).await.unwrap().output[31], 2);
    assert_eq!(client.storage(counter, &[[0; 32], [1; 32]], None).await.unwrap()[0][31], 1);

    let simulated = client.simulate(&ask).await.unwrap();
    assert_eq!((simulated.outcome, simulated.logs[0].data[31]), (Outcome::Done, 2));
    assert_eq!(simulated.gas_used, answer.gas_used);
    let estimate = client.estimate_gas(&ask).await.unwrap();
    assert!(estimate.gas_limit >= answer.gas_used && estimate.gas_limit < 2 * answer.gas_used);
    let enough = Call { gas_limit: estimate.gas_limit, ..ask.clone() };
    assert_eq!(client.call(&enough).await.unwrap().outcome, Outcome::Done);
    let too_little = Call { gas_limit: estimate.gas_limit * 9 / 10, ..ask.clone() };
    assert_eq!(client.call(&too_little).await.unwrap().outcome, Outcome::OutOfGas);
    // What the estimate says is what the transaction pays.
    assert_eq!(send(&net, &client, 0, call(counter)).await.gas_used, estimate.gas_used);

    let code = client.code(counter, None).await.unwrap().unwrap();
    assert_eq!((code.engine, hex::encode(&code.code)), (EngineId::EVM, COUNTER.to_owned()));
    assert_eq!(client.code(user(0).address(), None).await.unwrap(), None);
    let page =
        client.logs(&LogQuery { filter: LogFilter::of(counter), ..LogQuery::default() }).await.unwrap();
    let counts: Vec<_> = page.logs.iter().map(|log| log.entry.data[31]).collect();
    assert_eq!((counts.as_slice(), page.next), ([1, 2].as_slice(), None));
    let included = client.receipt(page.logs[1].transaction).await.unwrap().unwrap();
    assert_eq!(included.receipt.logs[0], page.logs[1].entry);

    // A constructor may be tried without a transaction.
    let creation = Call { from: user(1).address(), input: init(COUNTER), ..Call::default() };
    assert!(client.simulate(&creation).await.unwrap().created.is_some());
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_signed_for_the_state_it_was_given_on() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;
    send(&net, &client, 0, call(counter)).await;
    let before = client.status().await.unwrap().head.unwrap().height;
    send(&net, &client, 0, call(counter)).await;

    // The client checks the signature of each.
    let at_head = Call { to: Some(counter), signed: true, ..Call::default() };
    let answer = client.call(&at_head).await.unwrap();
    assert!(answer.signature.is_some());
    let header = net.nodes[0].view().header(&answer.block).unwrap().unwrap();
    assert_eq!((header.height, header.state), (answer.height, answer.state));

    // As long as the state of a height is kept, it can be asked; below, the node says so.
    let earlier = Call { height: Some(before), ..at_head.clone() };
    match client.call(&earlier).await {
        Ok(answer) => assert_eq!((answer.height, answer.output[31]), (before, 2)),
        Err(CallError::Failed { code: RpcCode::RpcNotFound, .. }) => {}
        Err(other) => panic!("{other}"),
    }
    until("finalized", async || net.nodes[0].view().finalized().height > before).await;
    for height in [before, before + 1_000_000] {
        let refused = client.call(&Call { height: Some(height), ..at_head.clone() }).await;
        assert!(
            matches!(refused, Err(CallError::Failed { code: RpcCode::RpcNotFound, .. })),
            "{height}: {refused:?}"
        );
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_may_not_be_is_said() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let poor = Call { from: Address([9; 20]), to: Some(Address([8; 20])), value: 1, ..Call::default() };
    assert_eq!(client.call(&poor).await.unwrap().outcome, Outcome::InsufficientBalance);
    let greedy = Call { gas_limit: 50_000_001, ..Call::default() };
    let meagre = Call { gas_limit: 20_999, to: Some(Address([8; 20])), ..Call::default() };
    for wrong in [greedy, meagre] {
        let refused = client.call(&wrong).await;
        assert!(matches!(refused, Err(CallError::Failed { code: RpcCode::RpcInvalid, .. })), "{refused:?}");
    }
    // Reverts with the bytes 0xdead.
    let reverter = deploy(&net, &client, 0, "61dead5f526002601efd").await;
    let ask = Call { to: Some(reverter), ..Call::default() };
    let answer = client.call(&ask).await.unwrap();
    assert_eq!((answer.outcome, answer.output.as_ref()), (Outcome::Reverted, [0xde, 0xad].as_slice()));
    let estimate = client.estimate_gas(&ask).await.unwrap();
    assert_eq!((estimate.outcome, estimate.gas_limit), (Outcome::Reverted, 0));
    let receipt = send(&net, &client, 0, Action::Call { to: reverter, value: 0, input: Bytes::new() }).await;
    assert_eq!((receipt.outcome, receipt.output), (Outcome::Reverted, answer.output));
    client.close().await;
}
