//! Payments: asked for in a channel, made on the chain, confirmed in the channel.

use bytes::Bytes;
use ghost_proto::{
    Action, Address, PublicKey, SignedTransaction, Transaction, TxId,
    message::{WalletPayment, WalletPaymentRequest, WalletPaymentSeen, wallet_message::Body},
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{Refused, Wallet, WalletError, event::What, file::id_of, stored};

const MEMO_BYTES_MAX: usize = 256;
/// Most requests and payments that are kept; the oldest settled ones make room.
const RECORDS_MAX: usize = 4_096;

/// What the chain says that a payment needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainFacts {
    /// Which chain.
    pub chain_id: u64,
    /// The sender's next nonce, those that wait counted.
    pub nonce: u64,
    /// Base units for each unit of gas.
    pub gas_price: u64,
    /// Gas of a transfer without payload.
    pub gas_limit: u64,
}

/// Somebody wants to be paid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    peer: PublicKey,
    /// We ask.
    ours: bool,
    to: Address20,
    value: u128,
    memo: String,
    time_unix_ms: u64,
    paid_by: Option<[u8; 32]>,
}

type Address20 = [u8; 20];

/// A transaction that pays somebody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Payment {
    peer: Option<PublicKey>,
    request: Option<[u8; 16]>,
    transaction: Vec<u8>,
    /// We pay.
    ours: bool,
    /// It pays what was asked for.
    pays: bool,
    height: Option<u64>,
    is_final: bool,
    /// The payee has found it.
    confirmed: bool,
    time_unix_ms: u64,
}

/// A request as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInfo {
    /// Its id, in hex.
    pub request: String,
    /// From or to whom.
    pub peer: PublicKey,
    /// We ask.
    pub ours: bool,
    /// The account to be paid.
    pub to: String,
    /// Base units, in decimal.
    pub value: String,
    /// What for.
    pub memo: String,
    /// The transaction that pays it, in hex.
    pub paid_by: Option<String>,
}

/// A payment as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentInfo {
    /// The transaction, in hex.
    pub transaction: String,
    /// With whom; nobody for a plain transfer.
    pub peer: Option<PublicKey>,
    /// Which request it pays, in hex.
    pub request: Option<String>,
    /// We pay.
    pub ours: bool,
    /// The block it stands in.
    pub height: Option<u64>,
    /// That block is final.
    pub r#final: bool,
    /// The payee has found it and said so.
    pub confirmed: bool,
}

fn request_key(id: &[u8; 16]) -> Vec<u8> {
    [b"r", &id[..]].concat()
}

fn payment_key(id: &TxId) -> Vec<u8> {
    [b"p", &id.0[..]].concat()
}

fn memo(text: &str) -> Result<String, WalletError> {
    match text.len() {
        0..=MEMO_BYTES_MAX => Ok(text.into()),
        bytes => {
            Err(WalletError::Invalid(format!("a memo has at most {MEMO_BYTES_MAX} bytes, this one {bytes}")))
        }
    }
}

impl Wallet {
    fn store_request(&mut self, id: &[u8; 16]) {
        let value = self.requests.get(id).and_then(stored);
        self.out.write(request_key(id), value);
    }

    pub(super) fn store_payment(&mut self, id: &TxId) {
        let value = self.payments.get(&id.0).and_then(stored);
        self.out.write(payment_key(id), value);
    }

    fn make_room(&mut self) {
        if self.requests.len() >= RECORDS_MAX
            && let Some(id) = self.requests.iter().min_by_key(|(_, it)| it.time_unix_ms).map(|(id, _)| *id)
        {
            self.requests.remove(&id);
            self.store_request(&id);
        }
        if self.payments.len() >= RECORDS_MAX
            && let Some(id) =
                self.payments.iter().min_by_key(|(_, it)| it.time_unix_ms).map(|(id, _)| TxId(*id))
        {
            self.payments.remove(&id.0);
            self.store_payment(&id);
        }
    }

    /// Asks a peer to pay. The id of the request.
    pub fn request(
        &mut self,
        peer: &PublicKey,
        value: u128,
        text: &str,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<[u8; 16], WalletError> {
        if value == 0 {
            return Err(WalletError::Invalid("a request is for at least one base unit".into()));
        }
        let memo = memo(text)?;
        let mut id = [0; 16];
        entropy.fill_bytes(&mut id);
        let to = self.keys.address();
        let body = WalletPaymentRequest {
            id: Bytes::copy_from_slice(&id),
            to: Bytes::copy_from_slice(&to.0),
            value: Bytes::copy_from_slice(&value.to_be_bytes()),
            memo: memo.clone(),
        };
        self.post(peer, Body::PaymentRequest(body), now_ms, entropy)?;
        self.make_room();
        let request =
            Request { peer: *peer, ours: true, to: to.0, value, memo, time_unix_ms: now_ms, paid_by: None };
        self.requests.insert(id, request);
        self.store_request(&id);
        Ok(id)
    }

    /// Pays a request of a peer: signs a transaction, has it submitted, and says so in the channel.
    pub fn pay(
        &mut self,
        request: &[u8; 16],
        text: &str,
        facts: ChainFacts,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<TxId, WalletError> {
        let memo = memo(text)?;
        let unknown = || WalletError::Unknown("request to this wallet", hex::encode(request));
        let found = self.requests.get(request).filter(|it| !it.ours).ok_or_else(unknown)?.clone();
        if let Some(paid) = found.paid_by {
            return Err(WalletError::Invalid(format!("it was paid already, by {}", hex::encode(paid))));
        }
        if !self.channels.contains_key(&found.peer) {
            return Err(WalletError::NoChannel(found.peer));
        }
        let tx = self.sign_transfer(Address(found.to), found.value, facts)?;
        let id = tx.id();
        let body =
            WalletPayment { request: Bytes::copy_from_slice(request), transaction: tx.bytes().clone(), memo };
        self.post(&found.peer, Body::Payment(body), now_ms, entropy)?;
        self.requests.get_mut(request).expect("found above").paid_by = Some(id.0);
        self.store_request(request);
        self.paying(tx, Some(found.peer), Some(*request), now_ms);
        Ok(id)
    }

    /// Pays an account, without a channel.
    pub fn transfer(
        &mut self,
        to: Address,
        value: u128,
        facts: ChainFacts,
        now_ms: u64,
    ) -> Result<TxId, WalletError> {
        let tx = self.sign_transfer(to, value, facts)?;
        let id = tx.id();
        self.paying(tx, None, None, now_ms);
        Ok(id)
    }

    fn sign_transfer(
        &self,
        to: Address,
        value: u128,
        facts: ChainFacts,
    ) -> Result<SignedTransaction, WalletError> {
        let key = self.keys.account();
        let body = Transaction {
            chain_id: facts.chain_id,
            sender_key: key.public(),
            nonce: facts.nonce,
            gas_limit: facts.gas_limit,
            gas_price: facts.gas_price,
            action: Action::Transfer { to, value, payload: Bytes::new() },
        };
        let signed = body.sign(key).map_err(|error| WalletError::Invalid(error.to_string()))?;
        Ok(signed.into_signed())
    }

    fn paying(
        &mut self,
        tx: SignedTransaction,
        peer: Option<PublicKey>,
        request: Option<[u8; 16]>,
        now_ms: u64,
    ) {
        let id = tx.id();
        let payment = Payment {
            peer,
            request,
            transaction: tx.bytes().to_vec(),
            ours: true,
            pays: true,
            height: None,
            is_final: false,
            confirmed: false,
            time_unix_ms: now_ms,
        };
        self.make_room();
        self.payments.insert(id.0, payment);
        self.store_payment(&id);
        self.out.submits.push(tx);
        self.out.watches.push(id);
    }

    /// A transaction that somebody else has signed with us, to be looked for.
    pub(super) fn watch_group(&mut self, tx: &SignedTransaction, submit: bool, now_ms: u64) {
        let payment = Payment {
            peer: None,
            request: None,
            transaction: tx.bytes().to_vec(),
            ours: submit,
            pays: true,
            height: None,
            is_final: false,
            confirmed: false,
            time_unix_ms: now_ms,
        };
        self.make_room();
        self.payments.entry(tx.id().0).or_insert(payment);
        self.store_payment(&tx.id());
        if submit {
            self.out.submits.push(tx.clone());
        }
        self.out.watches.push(tx.id());
    }

    /// What a process that was ended has to go on with: transactions to submit again and to look for, and messages to
    /// seal and send.
    pub fn resume(&mut self, now_ms: u64, entropy: &mut impl CryptoRng) {
        for payment in self.payments.values().filter(|payment| !payment.is_final) {
            let Ok(tx) = SignedTransaction::parse(payment.transaction.clone().into()) else { continue };
            self.out.watches.push(tx.id());
            if payment.ours && payment.height.is_none() {
                self.out.submits.push(tx);
            }
        }
        let peers: Vec<_> = self.channels.keys().copied().collect();
        for peer in peers {
            self.pump(&peer, now_ms, entropy);
            self.store_channel(&peer);
        }
    }

    /// All requests.
    pub fn requests(&self) -> Vec<RequestInfo> {
        let info = |(id, request): (&[u8; 16], &Request)| RequestInfo {
            request: hex::encode(id),
            peer: request.peer,
            ours: request.ours,
            to: Address(request.to).to_string(),
            value: request.value.to_string(),
            memo: request.memo.clone(),
            paid_by: request.paid_by.map(hex::encode),
        };
        self.requests.iter().map(info).collect()
    }

    /// All payments.
    pub fn payments(&self) -> Vec<PaymentInfo> {
        let info = |(id, payment): (&[u8; 32], &Payment)| PaymentInfo {
            transaction: hex::encode(id),
            peer: payment.peer,
            request: payment.request.map(hex::encode),
            ours: payment.ours,
            height: payment.height,
            r#final: payment.is_final,
            confirmed: payment.confirmed,
        };
        self.payments.iter().map(info).collect()
    }

    pub(super) fn on_payment_request(
        &mut self,
        peer: &PublicKey,
        request: WalletPaymentRequest,
        time: u64,
    ) -> Result<(), Refused> {
        let id = id_of(&request.id)?;
        let to: Address20 = request.to.as_ref().try_into().map_err(|_| Refused::Malformed)?;
        let value = u128::from_be_bytes(request.value.as_ref().try_into().map_err(|_| Refused::Malformed)?);
        if value == 0 || request.memo.len() > MEMO_BYTES_MAX || self.requests.contains_key(&id) {
            return Err(Refused::Malformed);
        }
        self.make_room();
        let what = What::PaymentRequested {
            request: hex::encode(id),
            to: Address(to).to_string(),
            value: value.to_string(),
            memo: request.memo.clone(),
        };
        let memo = request.memo;
        self.requests.insert(
            id,
            Request { peer: *peer, ours: false, to, value, memo, time_unix_ms: time, paid_by: None },
        );
        self.store_request(&id);
        self.tell(Some(*peer), time, what);
        Ok(())
    }

    pub(super) fn on_payment(
        &mut self,
        peer: &PublicKey,
        payment: WalletPayment,
        time: u64,
    ) -> Result<(), Refused> {
        let tx = SignedTransaction::parse(payment.transaction)
            .ok()
            .and_then(|tx| tx.verify().ok())
            .ok_or(Refused::Malformed)?
            .into_signed()
            .detached();
        let id = tx.id();
        let request = if payment.request.is_empty() { None } else { Some(id_of(&payment.request)?) };
        if payment.memo.len() > MEMO_BYTES_MAX || self.payments.contains_key(&id.0) {
            return Err(Refused::Malformed);
        }
        let Action::Transfer { to, value, .. } = &tx.body().action else { return Err(Refused::Malformed) };
        let to_us = *to == self.keys.address();
        let asked =
            request.and_then(|id| self.requests.get_mut(&id)).filter(|it| it.ours && it.peer == *peer);
        let pays = to_us
            && asked.as_ref().is_none_or(|it| it.paid_by.is_none() && *value >= it.value)
            && (asked.is_some() || request.is_none());
        if let (Some(asked), true) = (asked, pays) {
            asked.paid_by = Some(id.0);
        }
        let what = What::PaymentReceived {
            transaction: id.to_string(),
            request: request.map(hex::encode).unwrap_or_default(),
            value: value.to_string(),
            memo: payment.memo,
            accepted: pays,
        };
        self.make_room();
        let record = Payment {
            peer: Some(*peer),
            request,
            transaction: tx.bytes().to_vec(),
            ours: false,
            pays,
            height: None,
            is_final: false,
            confirmed: false,
            time_unix_ms: time,
        };
        self.payments.insert(id.0, record);
        self.store_payment(&id);
        if let Some(request) = request {
            self.store_request(&request);
        }
        self.out.watches.push(id);
        self.tell(Some(*peer), time, what);
        Ok(())
    }

    pub(super) fn on_payment_seen(
        &mut self,
        peer: &PublicKey,
        seen: WalletPaymentSeen,
        time: u64,
    ) -> Result<(), Refused> {
        let id = TxId(seen.transaction_id.as_ref().try_into().map_err(|_| Refused::Malformed)?);
        let payment = self.payments.get_mut(&id.0).ok_or(Refused::Malformed)?;
        if !payment.ours || payment.peer != Some(*peer) {
            return Err(Refused::Malformed);
        }
        payment.confirmed |= seen.accepted;
        self.store_payment(&id);
        let what = What::PaymentConfirmed {
            transaction: id.to_string(),
            height: seen.height,
            r#final: seen.r#final,
            accepted: seen.accepted,
        };
        self.tell(Some(*peer), time, what);
        Ok(())
    }

    /// A transaction that was watched stands in a block. Who was paid says so in the channel: once when it is
    /// found, once when it is final.
    pub fn seen(
        &mut self,
        id: TxId,
        height: u64,
        is_final: bool,
        success: bool,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) {
        let Some(payment) = self.payments.get_mut(&id.0) else { return };
        if payment.height == Some(height) && payment.is_final == is_final {
            return;
        }
        payment.height = Some(height);
        payment.is_final = is_final;
        let (ours, peer, accepted) = (payment.ours, payment.peer, payment.pays && success);
        self.store_payment(&id);
        let what = What::TransactionSeen { transaction: id.to_string(), height, r#final: is_final, success };
        self.tell(peer, now_ms, what);
        if let (false, Some(peer)) = (ours, peer) {
            let body = WalletPaymentSeen {
                transaction_id: Bytes::copy_from_slice(&id.0),
                height,
                r#final: is_final,
                accepted,
            };
            // A full queue: the payer finds it on the chain all the same.
            let _ = self.post(&peer, Body::PaymentSeen(body), now_ms, entropy);
        }
    }
}
