//! A published ERC-20: deployed, transferred, read, followed.

use bytes::Bytes;
use ghost_proto::{Action, Address, Call, EngineId, Outcome};
use ghost_protocol::{
    Identity,
    client::{FollowFrom, LogFilter, Pool, PoolConfig},
};
use tokio::time::timeout;

use crate::net::{Net, PATIENCE, send, until, user};

/// `Transfer(address,address,uint256)`, hashed.
const TRANSFER: &str = "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
const SUPPLY: u128 = 1_000_000;

fn bytecode() -> Bytes {
    let artifact: serde_json::Value =
        serde_json::from_str(include_str!("../../contracts/erc20/Token.json")).unwrap();
    let code = artifact["bytecode"]["object"].as_str().unwrap();
    hex::decode(code.strip_prefix("0x").unwrap()).unwrap().into()
}

fn number(value: u128) -> [u8; 32] {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&value.to_be_bytes());
    word
}

fn account(address: Address) -> [u8; 32] {
    let mut word = [0; 32];
    word[12..].copy_from_slice(&address.0);
    word
}

fn input(selector: &str, words: &[[u8; 32]]) -> Bytes {
    [hex::decode(selector).unwrap(), words.concat()].concat().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_transfer_of_a_token_is_lost_or_told_twice_while_a_node_is_restarted() {
    let mut net = Net::start(3).await;
    let client = net.client(2).await;
    let constructor = Bytes::copy_from_slice(&number(SUPPLY));
    let deploy = Action::Deploy { engine: EngineId::EVM, value: 0, code: bytecode(), input: constructor };
    let receipt = send(&net, &client, 0, deploy).await;
    assert_eq!(receipt.outcome, Outcome::Done, "{receipt:?}");
    let token = receipt.created.unwrap();
    let topic: [u8; 32] = hex::decode(TRANSFER).unwrap().try_into().unwrap();

    // A node comes back at another port, so the third stays while the first two are restarted in turn.
    let addresses = vec![net.address(0), net.address(1), net.address(2)];
    let pool = Pool::new(PoolConfig::new(Identity::generate()), addresses);
    let mut events = pool.subscribe_logs(LogFilter::of(token).event(topic), FollowFrom::Height(1));
    let mut told: Vec<(u64, u128)> = Vec::new();
    let mut follow = async |told: &mut Vec<(u64, u128)>, count: usize| {
        while told.len() < count {
            let batch = timeout(PATIENCE, events.next()).await.expect("it goes on").unwrap();
            if batch.reverted {
                told.retain(|(height, _)| *height <= batch.at.seq);
            }
            told.extend(batch.logs.iter().map(|log| {
                let amount = u128::from_be_bytes(log.entry.data[16..].try_into().unwrap());
                (log.place.height, amount)
            }));
        }
    };
    let to = user(5).address();
    let transfer = |amount| Action::Call {
        to: token,
        value: 0,
        input: input("a9059cbb", &[account(to), number(amount)]),
    };
    let mut sent = vec![SUPPLY];
    for round in 0..2usize {
        for amount in [1, 2] {
            let amount = amount + 10 * round as u128;
            assert_eq!(send(&net, &client, 0, transfer(amount)).await.outcome, Outcome::Done);
            sent.push(amount);
        }
        follow(&mut told, sent.len()).await;
        net.nodes[round].shutdown();
        net.nodes[round].stopped().await;
        let away = 5 + 10 * round as u128;
        assert_eq!(send(&net, &client, 0, transfer(away)).await.outcome, Outcome::Done);
        sent.push(away);
        follow(&mut told, sent.len()).await;
        net.nodes[round] = net.node(round).await;
        let head = net.nodes[2].view().head().height;
        until("back", async || net.nodes[round].view().head().height >= head).await;
    }
    let amounts: Vec<_> = told.iter().map(|(_, amount)| *amount).collect();
    assert_eq!(amounts, sent);

    // Read back at a node that was away.
    let other = net.client(0).await;
    let ask =
        |owner| Call { to: Some(token), input: input("70a08231", &[account(owner)]), ..Call::default() };
    let moved: u128 = sent[1..].iter().sum();
    let balance = other.call(&ask(to)).await.unwrap();
    assert_eq!((balance.outcome, balance.output.as_ref()), (Outcome::Done, number(moved).as_slice()));
    assert_eq!(other.call(&ask(user(0).address())).await.unwrap().output.as_ref(), number(SUPPLY - moved));

    // More than there is: OpenZeppelin's error with its three arguments comes back, and nothing moves.
    let refused = send(&net, &client, 5, transfer(SUPPLY)).await;
    assert_eq!(refused.outcome, Outcome::Reverted);
    let expected = input("e450d38c", &[account(to), number(moved), number(SUPPLY)]);
    assert_eq!(refused.output, expected);
    assert_eq!(other.call(&ask(to)).await.unwrap().output, balance.output);
    pool.close().await;
    other.close().await;
    client.close().await;
}
