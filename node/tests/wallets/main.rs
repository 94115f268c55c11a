//! Wallets on real nodes: each with its mail at a node of its own, nodes that come and go, a real chain.

mod commands;
mod net;

use std::time::Duration;

use ghost_frames::{
    Frame, Payload, StreamType,
    wallet::{DepositProof, MailboxDeposit, MailboxOutcome},
};
use ghost_node::wallet::Ask;
use ghost_proto::Address;
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
};
use ghost_wallet_channel::session::{GroupWord, What};
use net::{Net, Opened, PATIENCE, keys};

fn name(wallet: usize) -> String {
    keys(wallet).wallet().to_string()
}

/// Both have the channel.
async fn open_channel(from: &mut Opened, to: &mut Opened, peer: usize) {
    from.ask(Ask::Open { peer: name(peer), invitation: None }).await;
    from.happens("the channel opens", |what| matches!(what, What::ChannelOpened { by_peer: false })).await;
    to.happens("the peer opens", |what| matches!(what, What::ChannelOpened { by_peer: true })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_paid_on_the_chain_and_confirmed_with_wallets_and_nodes_restarted_in_between() {
    let mut net = Net::start(2).await;
    let mut payee = net.open(0, 0, &[0]).await;
    let mut payer = net.open(1, 1, &[1]).await;
    // Only its key is known: the payer's node asks the payee's for the presence.
    open_channel(&mut payer, &mut payee, 0).await;
    let asked =
        payee.ask(Ask::Request { peer: name(1), value: "250".into(), memo: "two coffees".into() }).await;
    let request = asked["request"].as_str().unwrap().to_owned();
    payer
        .happens("it is asked", |what| matches!(what, What::PaymentRequested { value, .. } if value == "250"))
        .await;

    // Both wallets end, and the payee's mailbox with all it has in memory.
    payee.close().await;
    payer.close().await;
    net.restart_node(0).await;
    let payer = net.open(1, 1, &[]).await;
    let paid = payer.ask(Ask::Pay { request: request.clone(), memo: String::new() }).await;
    let transaction = paid["transaction"].as_str().unwrap().to_owned();
    assert!(payer.walletd.ask(Ask::Pay { request: request.clone(), memo: String::new() }).await.is_err());
    payer.ask(Ask::Settle).await;
    // The payer is gone when the payee comes back, and back when the confirmation is there.
    payer.close().await;
    let mut payee = net.open(0, 0, &[]).await;
    payee
        .happens("it is paid", |what| {
            matches!(what, What::PaymentReceived { accepted: true, transaction: paid, .. } if *paid == transaction)
        })
        .await;
    payee
        .happens("the payee finds it", |what| matches!(what, What::TransactionSeen { success: true, .. }))
        .await;
    let mut payer = net.open(1, 1, &[]).await;
    payer
        .happens("it is confirmed in the channel", |what| {
            matches!(what, What::PaymentConfirmed { accepted: true, transaction: paid, .. } if *paid == transaction)
        })
        .await;
    let balance = net.nodes[1].view().account(&keys(0).address()).unwrap().balance;
    assert_eq!(balance, (1 << 60) + 250);
    payee.close().await;
    payer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_arrive_with_progress_on_both_sides() {
    let net = Net::start(2).await;
    let (mut from, mut to) = (net.open(0, 0, &[0]).await, net.open(1, 1, &[1]).await);
    open_channel(&mut from, &mut to, 1).await;
    let content: Vec<u8> = (0..10_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = net.path().join("photos.tar");
    std::fs::write(&path, &content).unwrap();
    from.ask(Ask::File { peer: name(1), path: path.display().to_string() }).await;
    let mut seen = [0, 0];
    for (index, side) in [(0, &mut to), (1, &mut from)] {
        let sent = index == 1;
        // Half of it is seen before the whole.
        seen[index] = side
            .event("progress", |what| match what {
                What::FileProgress { done_bytes, bytes, sent: by_us, .. } if *by_us == sent && *bytes > 0 => {
                    (*done_bytes >= bytes / 2).then_some(*done_bytes)
                }
                _ => None,
            })
            .await;
    }
    assert!(seen.iter().all(|bytes| (5_000_000..10_000_000).contains(bytes)), "{seen:?}");
    let arrived = to
        .event("all of it", |what| match what {
            What::FileDone { name, bytes: 10_000_000, sent: false, .. } => Some(name.clone()),
            _ => None,
        })
        .await;
    from.happens("the peer has it", |what| matches!(what, What::FileDone { sent: true, .. })).await;
    assert!(std::fs::read(arrived).unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_wallets_move_funds_on_the_chain() {
    let net = Net::start(2).await;
    let mut wallets = Vec::new();
    for (wallet, node) in [(0, 0), (1, 1), (2, 1)] {
        wallets.push(net.open(wallet, node, &[node]).await);
    }
    // Nobody has a channel to anybody: founding and joining opens them.
    let members = [1, 2].map(name).to_vec();
    let founded = wallets[0].ask(Ask::GroupNew { label: "shop".into(), threshold: 2, members }).await;
    let group = founded["group"].as_str().unwrap().to_owned();
    for wallet in &mut wallets[1..] {
        let invited = |what: &What| matches!(what, What::Group { word: GroupWord::Invited { .. }, .. });
        wallet.happens("it is invited", invited).await;
        wallet.ask(Ask::GroupJoin { group: group.clone() }).await;
    }
    let mut addresses = Vec::new();
    for wallet in &mut wallets {
        let address = wallet
            .event("the group is ready", |what| match what {
                What::Group { word: GroupWord::Ready { address, .. }, .. } => Some(address.clone()),
                What::Group { word: GroupWord::Failed { reason }, .. } => panic!("{reason}"),
                _ => None,
            })
            .await;
        addresses.push(address);
    }
    assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    let account: Address = addresses[0].parse().unwrap();
    wallets[0].ask(Ask::Send { to: account, value: "1000000".into() }).await;
    wallets[0].happens("the group has funds", |what| matches!(what, What::TransactionSeen { .. })).await;

    // The third is away.
    let third = wallets.pop().unwrap();
    third.close().await;
    let to = Address([9; 20]);
    let propose = Ask::GroupPropose { group: group.clone(), to, value: "777".into() };
    let proposed = wallets[0].ask(propose).await;
    let proposal = proposed["proposal"].as_str().unwrap().to_owned();
    let shown = |what: &What| matches!(what, What::Group { word: GroupWord::Proposed { value, .. }, .. } if value == "777");
    wallets[1].happens("it is proposed", shown).await;
    wallets[1].ask(Ask::GroupApprove { group, proposal }).await;
    wallets[0]
        .happens("it stands on the chain", |what| matches!(what, What::TransactionSeen { success: true, .. }))
        .await;
    assert_eq!(net.nodes[0].view().account(&to).unwrap().balance, 777);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_node_that_is_gone_is_replaced_by_another() {
    let net = Net::start(3).await;
    let (mut alice, mut bob) = (net.open(0, 0, &[0]).await, net.open(1, 1, &[1]).await);
    open_channel(&mut alice, &mut bob, 1).await;
    bob.close().await;
    net.nodes[1].shutdown();
    net.nodes[1].stopped().await;
    alice.ask(Ask::Say { peer: name(1), text: "to where nobody is".into() }).await;
    // Bob comes back with another node, and tells.
    let mut bob = net.open(1, 2, &[2]).await;
    bob.happens(
        "it comes by the new one",
        |what| matches!(what, What::Text { text } if text == "to where nobody is"),
    )
    .await;
    bob.ask(Ask::Say { peer: name(0), text: "here I am".into() }).await;
    alice.happens("it answers", |what| matches!(what, What::Text { text } if text == "here I am")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_37_a_node_keeps_nothing_of_strangers_who_do_not_pay() {
    let net = Net::start(1).await;
    let opened = net.open(0, 0, &[0]).await;
    let box_key = {
        let node = ghost_proto::record::key_of(&net.nodes[0].peer_id).unwrap();
        keys(0).box_key(&node).public()
    };
    let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(Identity::generate()) };
    let client = Client::connect(config, &net.address(0)).await.unwrap();
    let deposit = async |box_key, proof, envelope: Vec<u8>| {
        let frame = MailboxDeposit { box_key, proof, envelope: envelope.into() }.to_frame();
        let answer =
            client.session().request(StreamType::Wallet, &frame, Duration::from_secs(20)).await.unwrap();
        match answer.single().await.unwrap() {
            Frame::MailboxAnswer(answer) => answer.outcome,
            other => panic!("{other:?}"),
        }
    };
    for n in 0..200u8 {
        let outcome = deposit(box_key, DepositProof::Grant([n; 32]), vec![n; 512]).await;
        assert_eq!(outcome, MailboxOutcome::NoGrant);
    }
    assert_eq!(deposit(keys(1).wallet(), DepositProof::Stamp(0), vec![0; 512]).await, MailboxOutcome::NoBox);
    assert_eq!(deposit(box_key, DepositProof::Stamp(0), vec![0; 513]).await, MailboxOutcome::BadSize);
    let metrics = net.nodes[0].metrics().encode();
    assert!(metrics.contains("ghostd_mailbox_envelopes 0\n"), "{metrics}");
    assert!(metrics.contains("ghostd_mailbox_refusals_total 202\n"), "{metrics}");
    assert_eq!(opened.ask(Ask::Channels).await["channels"].as_array().unwrap().len(), 0);
}
