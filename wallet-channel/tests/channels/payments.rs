//! Asked for, paid, confirmed; with both ends killed in between.

use ghost_proto::Action;
use ghost_wallet_channel::session::{ChainFacts, What};

use crate::world::World;

pub(crate) const FACTS: ChainFacts = ChainFacts { chain_id: 7, nonce: 0, gas_price: 1, gas_limit: 21_000 };

#[test]
fn a_request_is_paid_once_and_confirmed_though_both_ends_are_killed_in_between() {
    let mut world = World::new(2);
    world.open_and_settle(0, 1);
    let (payee, payer) = (world.actors[0].key(), world.actors[1].key());
    let now = world.now;
    let actor = &mut world.actors[0];
    let request = actor.wallet.request(&payer, 250, "two coffees", now, &mut actor.rng).unwrap();
    // The payee is killed once the request is stored, before it has left.
    let mut output = actor.wallet.take();
    output.deposits.clear();
    world.carry_out(0, output);
    world.actors[0].restart(now);
    world.pass(60_000);
    assert!(
        world.actors[1].saw(|what| matches!(what, What::PaymentRequested { value, .. } if value == "250"))
    );

    let now = world.now;
    let actor = &mut world.actors[1];
    let id = actor.wallet.pay(&request, "", FACTS, now, &mut actor.rng).unwrap();
    // The payer is killed once the payment is stored, before it was submitted or told.
    let mut output = actor.wallet.take();
    assert_eq!((output.submits.len(), output.deposits.len()), (1, 1));
    output.submits.clear();
    output.watches.clear();
    output.deposits.clear();
    world.carry_out(1, output);
    assert!(world.chain.is_empty());
    world.actors[1].restart(now);
    world.actors[0].restart(now);
    // It cannot be paid twice, before or after.
    let actor = &mut world.actors[1];
    assert!(actor.wallet.pay(&request, "", ChainFacts { nonce: 1, ..FACTS }, now, &mut actor.rng).is_err());
    world.pass(120_000);

    assert_eq!(world.chain.len(), 1);
    let (tx, _) = &world.chain[&id];
    let to = world.actors[0].wallet.keys().address();
    assert!(matches!(&tx.body().action, Action::Transfer { to: paid, value: 250, .. } if *paid == to));
    assert!(world.actors[0].saw(|what| matches!(what, What::PaymentReceived { accepted: true, .. })));
    let confirmed =
        |what: &What| matches!(what, What::PaymentConfirmed { accepted: true, r#final: true, .. });
    assert!(world.actors[1].saw(confirmed));
    let payment = &world.actors[1].wallet.payments()[0];
    assert!(payment.confirmed && payment.r#final && payment.peer == Some(payee));
    assert_eq!(world.actors[0].wallet.requests()[0].paid_by.as_deref(), Some(&*id.to_string()));
}

#[test]
fn a_payment_that_is_too_small_or_to_somebody_else_is_not_accepted() {
    let mut world = World::new(3);
    world.open_and_settle(0, 1);
    world.open(2, 1);
    world.pass(1_000);
    let payer = world.actors[1].key();
    let now = world.now;
    // Two wallets ask; the payer pays one with the transaction that was for the other.
    let mut requests = Vec::new();
    for index in [0, 2] {
        let actor = &mut world.actors[index];
        requests.push(actor.wallet.request(&payer, 100, "", now, &mut actor.rng).unwrap());
    }
    world.pass(1_000);
    let actor = &mut world.actors[1];
    let id = actor.wallet.pay(&requests[0], "", FACTS, now, &mut actor.rng).unwrap();
    world.pass(1_000);
    assert!(world.actors[0].saw(|what| matches!(what, What::PaymentReceived { accepted: true, .. })));
    // A second one that names a transaction which was taken already is not even shown.
    assert_eq!(world.actors[0].wallet.payments().len(), 1);
    assert_eq!(world.actors[0].wallet.payments()[0].transaction, id.to_string());
    assert!(world.actors[2].wallet.payments().is_empty());
}
