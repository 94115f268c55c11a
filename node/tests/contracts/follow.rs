//! Following what happens, over nodes that come and go.

use ghost_proto::Action;
use ghost_protocol::{
    Identity,
    client::{FollowFrom, LogFilter, Pool, PoolConfig},
};
use tokio::time::timeout;

use crate::net::{COUNTER, Net, PATIENCE, call, deploy, send, until, user};

#[tokio::test(flavor = "multi_thread")]
async fn no_log_is_lost_and_none_comes_twice_while_nodes_are_restarted() {
    let mut net = Net::start(3).await;
    let client = net.client(2).await;
    let counter = deploy(&net, &client, 0, COUNTER).await;
    let config = PoolConfig::new(Identity::generate());
    let pool = Pool::new(config, vec![net.address(0), net.address(1), net.address(2)]);
    let mut logs = pool.subscribe_logs(LogFilter::of(counter), FollowFrom::Height(1));

    let mut seen: Vec<u8> = Vec::new();
    let mut follow = async |seen: &mut Vec<u8>, until: usize| {
        let mut rows: Vec<(u64, u8)> = seen.iter().map(|count| (0, *count)).collect();
        while rows.len() < until {
            let batch = timeout(PATIENCE, logs.next()).await.expect("it goes on").unwrap();
            if batch.reverted {
                rows.retain(|(height, _)| *height <= batch.at.seq);
            }
            rows.extend(batch.logs.iter().map(|log| (log.place.height, log.entry.data[31])));
        }
        *seen = rows.into_iter().map(|(_, count)| count).collect();
    };
    for _ in 0..3 {
        send(&net, &client, 0, call(counter)).await;
    }
    follow(&mut seen, 3).await;
    // One after the other goes away and comes back, while calls go on.
    for index in [0, 1] {
        net.nodes[index].shutdown();
        net.nodes[index].stopped().await;
        send(&net, &client, 0, call(counter)).await;
        follow(&mut seen, 4 + 2 * index).await;
        net.nodes[index] = net.node(index).await;
        let head = net.nodes[2].view().head().height;
        until("back", async || net.nodes[index].view().head().height >= head).await;
        send(&net, &client, 0, call(counter)).await;
        follow(&mut seen, 5 + 2 * index).await;
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_of_ones_own_transactions_are_told() {
    let net = Net::start(1).await;
    let client = net.client(0).await;
    let mine = user(3).address();
    let mut receipts = client.subscribe_receipts(&[mine], FollowFrom::Now).await.unwrap();
    // The first says where this is.
    assert!(receipts.next().await.unwrap().unwrap().receipts.is_empty());
    let transfer = |to| Action::Transfer { to, value: 1, payload: Default::default() };
    send(&net, &client, 4, transfer(mine)).await;
    let receipt = send(&net, &client, 3, transfer(user(4).address())).await;
    let found = async {
        loop {
            let batch = receipts.next().await.unwrap().unwrap();
            if let Some(first) = batch.receipts.into_iter().next() {
                return first;
            }
        }
    };
    let found = timeout(PATIENCE, found).await.unwrap();
    assert_eq!(found.receipt, receipt);
    assert!(client.receipt(found.transaction).await.unwrap().is_some());
    client.close().await;
}
