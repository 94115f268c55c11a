//! What can be asked of a node, and of a pool of nodes alike.

use bytes::Bytes;
use ghost_frames::{
    Frame, Payload,
    contract::{CallRequest, EstimateRequest, SimulateRequest},
};
use ghost_proto::{
    Address, Call, CallAnswer, TxId,
    limits::{STORAGE_SLOTS_MAX, SUBMIT_TXS_MAX, TX_BATCH_BYTES_MAX},
    message, record,
};

use super::{
    Answered, BlockSelector, CallError, Client, ContractCode, Estimate, LogPage, LogQuery, Pool, ReceiptAt,
    Simulated,
    contract::{array, nonsense},
    found, unexpected,
};
macro_rules! calls {
    ($asker:ty) => {
        impl $asker {
        /// How the node is.
        pub async fn status(&self) -> Result<message::Status, CallError> {
            expect_answer!(self.ask(&message::StatusRequest {}.to_frame()).await?.frame, Status)
        }

        /// Submits signed transactions to be relayed at once; the results stand in their order. At most
        /// 1,024 transactions and 256 KiB at once.
        pub async fn submit(&self, transactions: Vec<Bytes>) -> Result<Vec<message::SubmitResult>, CallError> {
            self.submit_with(transactions, message::Privacy::Fast).await
        }

        /// As [`Self::submit`], by the way that `privacy` names. What goes by a stem is in no mempool, and
        /// not in the account's next nonce, for some seconds.
        pub async fn submit_with(
            &self,
            transactions: Vec<Bytes>,
            privacy: message::Privacy,
        ) -> Result<Vec<message::SubmitResult>, CallError> {
            let bytes: usize = transactions.iter().map(Bytes::len).sum();
            if transactions.len() > SUBMIT_TXS_MAX || bytes > TX_BATCH_BYTES_MAX {
                return Err(CallError::Invalid(format!(
                    "{} transactions of {bytes} bytes are too many for one call; {SUBMIT_TXS_MAX} of {TX_BATCH_BYTES_MAX} bytes fit",
                    transactions.len()
                )));
            }
            let request = message::SubmitRequest { transactions, privacy: privacy.into() };
            let answer = expect_answer!(self.tell(&request.to_frame()).await?.frame, SubmitAnswer)?;
            if answer.results.len() != request.transactions.len() {
                let (results, sent) = (answer.results.len(), request.transactions.len());
                return Err(nonsense(format_args!("{results} results for {sent} transactions")));
            }
            Ok(answer.results)
        }

        /// A transaction by id, or `None` if the node does not know it.
        pub async fn transaction(&self, id: TxId) -> Result<Option<message::TransactionAnswer>, CallError> {
            let request = message::TransactionRequest { id: Bytes::copy_from_slice(&id.0) };
            found(self.ask(&request.to_frame()).await.and_then(|answer| expect_answer!(answer.frame, TransactionAnswer)))
        }

        /// A block, or `None` if the node does not have it.
        pub async fn block(
            &self,
            which: BlockSelector,
            detail: message::BlockDetail,
        ) -> Result<Option<message::BlockAnswer>, CallError> {
            use message::block_request::Which;
            let which = match which {
                BlockSelector::Height(height) => Which::Height(height),
                BlockSelector::Id(id) => Which::Id(Bytes::copy_from_slice(&id.0)),
                BlockSelector::Head => Which::Head(true),
            };
            let request = message::BlockRequest { which: Some(which), detail: detail.into() };
            found(self.ask(&request.to_frame()).await.and_then(|answer| expect_answer!(answer.frame, BlockAnswer)))
        }

        /// One market, or all with an empty name.
        pub async fn markets(&self, market: &str) -> Result<message::MarketsAnswer, CallError> {
            let request = message::MarketsRequest { market: market.into() };
            expect_answer!(self.ask(&request.to_frame()).await?.frame, MarketsAnswer)
        }

        /// What an account has of each asset, free and in open orders.
        pub async fn balances(&self, address: Address) -> Result<message::BalancesAnswer, CallError> {
            let request = message::BalancesRequest { address: Bytes::copy_from_slice(&address.0) };
            expect_answer!(self.ask(&request.to_frame()).await?.frame, BalancesAnswer)
        }

        /// An account at the node's head. One that was never used has balance and nonce 0.
        pub async fn account(&self, address: Address) -> Result<message::AccountAnswer, CallError> {
            let request = message::AccountRequest { address: Bytes::copy_from_slice(&address.0) };
            expect_answer!(self.ask(&request.to_frame()).await?.frame, AccountAnswer)
        }

        /// Pending transactions: those a block can take now, best price first, then parked ones.
        pub async fn pending(&self, limit: u32) -> Result<message::PendingAnswer, CallError> {
            expect_answer!(self.ask(&message::PendingRequest { limit }.to_frame()).await?.frame, PendingAnswer)
        }


            /// Runs a call of a contract and changes nothing. If `call.signed`, the node's signature of
            /// the answer is checked. A call that reverts is an answer: look at its outcome.
            pub async fn call(&self, call: &Call) -> Result<CallAnswer, CallError> {
                let answer = self.ask(&CallRequest(call.clone()).to_frame()).await?;
                checked_answer(call, answer)
            }

            /// The same, with what it would log and make.
            pub async fn simulate(&self, call: &Call) -> Result<Simulated, CallError> {
                let answer = self.ask(&SimulateRequest(call.clone()).to_frame()).await?;
                Simulated::of(expect_answer!(answer.frame, SimulateAnswer)?)
            }

            /// How much gas a transaction that does the same needs.
            pub async fn estimate_gas(&self, call: &Call) -> Result<Estimate, CallError> {
                let answer = self.ask(&EstimateRequest(call.clone()).to_frame()).await?;
                Estimate::of(expect_answer!(answer.frame, EstimateAnswer)?)
            }

            /// What became of a transaction, or `None` if it is in no block.
            pub async fn receipt(&self, id: TxId) -> Result<Option<ReceiptAt>, CallError> {
                let request = message::ReceiptRequest { id: Bytes::copy_from_slice(&id.0) };
                let answer = self.ask(&request.to_frame()).await;
                let answer =
                    found(answer.and_then(|answer| expect_answer!(answer.frame, ReceiptAnswer)))?;
                answer.map(ReceiptAt::of).transpose()
            }

            /// One page of logs; [`LogPage::next`] says where the next one begins.
            pub async fn logs(&self, query: &LogQuery) -> Result<LogPage, CallError> {
                let request = message::LogsRequest {
                    filter: Some(query.filter.message()?),
                    from: Some(query.from.into()),
                    to_height: query.to_height,
                    limit: query.limit,
                };
                let answer = self.ask(&request.to_frame()).await?;
                LogPage::of(expect_answer!(answer.frame, LogsAnswer)?)
            }

            /// The code of a contract after the block of a height, or after the head; `None` for an
            /// account without code.
            pub async fn code(
                &self,
                address: Address,
                height: Option<u64>,
            ) -> Result<Option<ContractCode>, CallError> {
                let request =
                    message::CodeRequest { address: Bytes::copy_from_slice(&address.0), height };
                let answer = self.ask(&request.to_frame()).await?;
                ContractCode::of(expect_answer!(answer.frame, CodeAnswer)?)
            }

            /// Words of a contract's storage after the block of a height, or after the head, in the
            /// order of the slots; at most 256.
            pub async fn storage(
                &self,
                address: Address,
                slots: &[[u8; 32]],
                height: Option<u64>,
            ) -> Result<Vec<[u8; 32]>, CallError> {
                if slots.len() > STORAGE_SLOTS_MAX {
                    return Err(CallError::Invalid(format!(
                        "{} slots are too many for one request; {STORAGE_SLOTS_MAX} fit",
                        slots.len()
                    )));
                }
                let request = message::StorageRequest {
                    address: Bytes::copy_from_slice(&address.0),
                    slots: slots.iter().map(|slot| Bytes::copy_from_slice(slot)).collect(),
                    height,
                };
                let answer = self.ask(&request.to_frame()).await?;
                let answer = expect_answer!(answer.frame, StorageAnswer)?;
                if answer.words.len() != slots.len() {
                    let (words, slots) = (answer.words.len(), slots.len());
                    return Err(nonsense(format_args!("{words} words for {slots} slots")));
                }
                answer.words.iter().map(|word| array(word, "a word")).collect()
            }
        }
    };
}

calls!(Client);
calls!(Pool);

/// The answer to a call, its signature checked if one was asked for.
pub(super) fn checked_answer(call: &Call, answer: Answered) -> Result<CallAnswer, CallError> {
    let Answered { frame, peer, genesis } = answer;
    let answer = expect_answer!(frame, CallAnswer)?.0;
    if call.signed {
        let key = record::key_of(&peer).ok_or_else(|| nonsense("its PeerId holds no key"))?;
        let genesis = genesis.ok_or_else(|| nonsense("it is of no chain"))?;
        answer.verify(call, &genesis, &key).map_err(|_| nonsense("its signature does not verify"))?;
    }
    if call.height.is_some_and(|height| height != answer.height) {
        return Err(nonsense(format_args!("it is about height {}", answer.height)));
    }
    Ok(answer)
}
