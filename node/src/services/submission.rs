//! Taking submitted transactions, for all remote calls.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use bytes::Bytes;
use ghost_mempool_relay::pool::{Pool, Removal};
use ghost_proto::{SignedTransaction, TxId, VerifiedTransaction, limits::SUBMIT_TXS_MAX, message};
use tokio::{sync::mpsc, time::Instant};

use super::{
    hidden::Hidden,
    transactions::{ToTransactions, accounts_of},
};
use crate::{chain::HeadView, metrics::Metrics};

/// Signatures checked before other tasks get their turn: about 8 ms.
const VERIFY_AT_ONCE: usize = 256;

/// Takes submitted transactions. Shared by all remote calls.
#[derive(Clone)]
pub(crate) struct Submission {
    pub(crate) pool: Arc<Mutex<Pool>>,
    pub(crate) views: Arc<ArcSwap<HeadView>>,
    pub(crate) relay: mpsc::Sender<ToTransactions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) hidden: Hidden,
}

impl Submission {
    /// Verifies, inserts, and says what became of each.
    pub(crate) async fn submit(
        &self,
        transactions: Vec<Bytes>,
        privacy: message::Privacy,
    ) -> message::SubmitAnswer {
        let mut results = Vec::with_capacity(transactions.len().min(SUBMIT_TXS_MAX));
        let mut taken = Taken::default();
        let underway = match privacy {
            message::Privacy::Tor => match self.hidden.begin() {
                Ok(underway) => Some(underway),
                Err((reason, text)) => return self.refuse_all(&transactions, reason, &text),
            },
            message::Privacy::Fast | message::Privacy::Stem => None,
        };
        for chunk in transactions.chunks(VERIFY_AT_ONCE) {
            self.submit_some(chunk, privacy, &mut results, &mut taken);
            tokio::task::yield_now().await;
        }
        let Taken { ready, removed, stem } = taken;
        // The transaction task ends only with the node.
        if !ready.is_empty() || !removed.is_empty() {
            let _ = self.relay.send(ToTransactions::Submitted { ready, removed }).await;
        }
        if let Some(underway) = underway {
            let all: Vec<_> = stem.iter().map(|tx| (tx.id(), tx.bytes().clone())).collect();
            if !all.is_empty() {
                tokio::spawn(underway.send(all));
            }
        } else if !stem.is_empty() {
            let _ = self.relay.send(ToTransactions::Stem(stem)).await;
        }
        message::SubmitAnswer { results }
    }

    /// What cannot be sent as it was asked for is not sent at all.
    fn refuse_all(&self, transactions: &[Bytes], reason: &'static str, text: &str) -> message::SubmitAnswer {
        let refused = |bytes: &Bytes| {
            self.metrics.transaction_rejected(reason);
            let id = SignedTransaction::parse(bytes.clone()).map(|tx| Bytes::copy_from_slice(&tx.id().0));
            message::SubmitResult {
                id: id.unwrap_or_default(),
                accepted: false,
                reason: reason.into(),
                message: text.into(),
            }
        };
        message::SubmitAnswer { results: transactions.iter().map(refused).collect() }
    }

    fn submit_some(
        &self,
        chunk: &[Bytes],
        privacy: message::Privacy,
        results: &mut Vec<message::SubmitResult>,
        taken: &mut Taken,
    ) {
        let parsed: Vec<_> = chunk.iter().map(|bytes| SignedTransaction::parse(bytes.clone())).collect();
        let well_formed: Vec<_> =
            parsed.iter().filter_map(|tx| tx.as_ref().ok()).map(|tx| tx.clone().detached()).collect();
        let mut verified = SignedTransaction::verify_many(well_formed, rand::rng()).into_iter();
        let view = self.views.load();
        let now = Instant::now().into_std();
        let mut pool = self.pool.lock().expect("no code panics while it holds the pool");
        for parsed in parsed {
            let mut result = message::SubmitResult::default();
            let (reason, text) = match parsed {
                Err(error) => ("malformed", format!("the bytes are no transaction: {error}")),
                Ok(tx) => {
                    result.id = Bytes::copy_from_slice(&tx.id().0);
                    match verified.next() {
                        Some(Ok(tx)) if privacy != message::Privacy::Fast && !pool.contains(&tx.id()) => {
                            match pool.check(&tx, &accounts_of(&view), now) {
                                Ok(()) => {
                                    taken.stem.push(tx);
                                    result.accepted = true;
                                    ("", String::new())
                                }
                                Err(refusal) => (refusal.reason(), refusal.to_string()),
                            }
                        }
                        Some(Ok(tx)) => match pool.insert(tx, &accounts_of(&view), now) {
                            Ok(inserted) => {
                                taken.ready.extend(inserted.ready);
                                taken.removed.extend(inserted.removed);
                                result.accepted = true;
                                self.metrics.transactions_accepted.inc();
                                ("", String::new())
                            }
                            Err(refusal) => (refusal.reason(), refusal.to_string()),
                        },
                        _ => ("bad_signature", "the signature is not the sender key's; sign it again".into()),
                    }
                }
            };
            if !result.accepted {
                self.metrics.transaction_rejected(reason);
                result.reason = reason.into();
                result.message = text;
            }
            results.push(result);
        }
    }
}

/// What a submission leaves to the transaction task.
#[derive(Default)]
struct Taken {
    ready: Vec<TxId>,
    removed: Vec<(TxId, Removal)>,
    /// What is not to be seen here before others have it.
    stem: Vec<VerifiedTransaction>,
}
