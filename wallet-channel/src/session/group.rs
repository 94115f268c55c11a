//! Groups: n wallets make one key, k of them sign with it (FROST, RFC 9591, by `frost-ed25519`).
//!
//! ```text
//! invite ──▶ all join: first packages to all ──▶ second packages, each for one ──▶ key and account
//! propose ──▶ k approve: commitments to the proposer ──▶ signing package ──▶ shares ──▶ transaction
//! ```
//!
//! The key is made together (distributed key generation): nobody ever has all of it. Its signatures are plain
//! ed25519, so the group is an account like any other, and the chain learns neither n nor k nor who signed.
//!
//! # Security
//! - The first packages must be the same for all: each second package carries a hash over all first ones, and
//!   who finds another hash goes no further.
//! - A nonce signs once. It is taken out of the store in the same batch that the share is sent by.
//! - A member signs the transaction that it was shown: it builds the message itself and compares.

use std::collections::BTreeMap;

use bytes::Bytes;
use frost_ed25519::{
    self as frost, Identifier,
    keys::{KeyPackage, PublicKeyPackage, dkg},
    round1::{SigningCommitments, SigningNonces},
    round2::SignatureShare,
};
use ghost_proto::{
    Action, Address, PublicKey, Signature, SignedTransaction, Transaction,
    keys::Domain,
    message::{
        WalletGroupCommit, WalletGroupDone, WalletGroupInvite, WalletGroupPropose, WalletGroupShare,
        WalletGroupSign, WalletGroupSignature, wallet_message::Body,
    },
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::{
    Refused, Wallet, WalletError,
    event::{GroupWord, What},
    file::id_of,
    payment::ChainFacts,
    stored,
};

/// Most members of a group: each says a package of 34 bytes × k and more to all others.
pub const MEMBERS_MAX: usize = 16;
/// Most groups of a wallet.
const GROUPS_MAX: usize = 64;
/// Most proposals of a group that are kept.
const PROPOSALS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 64;
/// Longest package: a commitment and a proof for 16 coefficients, with room.
const PACKAGE_BYTES_MAX: usize = 4_096;

type Id = [u8; 16];
/// Who signs, and the package they are to sign.
type ToSign = (Vec<PublicKey>, Vec<u8>);

/// Hands our entropy to a library that wants an older trait.
struct Entropy<'a, R>(&'a mut R);

impl<R: CryptoRng> frost::rand_core::RngCore for Entropy<'_, R> {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), frost::rand_core::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl<R: CryptoRng> frost::rand_core::CryptoRng for Entropy<'_, R> {}

/// A group, as far as it is. Packages are kept as they came or were made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    label: String,
    threshold: u16,
    members: Vec<PublicKey>,
    hints: Vec<String>,
    joined: bool,
    first_secret: Option<Vec<u8>>,
    first_own: Vec<u8>,
    first: BTreeMap<PublicKey, Vec<u8>>,
    second_secret: Option<Vec<u8>>,
    echo: Option<[u8; 32]>,
    second: BTreeMap<PublicKey, ([u8; 32], Vec<u8>)>,
    key: Option<Vec<u8>>,
    public: Option<Vec<u8>>,
    failed: Option<String>,
    proposals: BTreeMap<Id, Proposal>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proposal {
    proposer: PublicKey,
    unsigned: Vec<u8>,
    approved: bool,
    /// Ours, until they have signed.
    nonces: Option<Vec<u8>>,
    /// At the proposer.
    commitments: BTreeMap<PublicKey, Vec<u8>>,
    package: Option<Vec<u8>>,
    shares: BTreeMap<PublicKey, Vec<u8>>,
    transaction: Option<Vec<u8>>,
    time_unix_ms: u64,
}

/// A group as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its id, in hex.
    pub group: String,
    /// What it is called.
    pub label: String,
    /// How many must sign.
    pub threshold: u16,
    /// Of whom.
    pub members: Vec<PublicKey>,
    /// `invited`, `joining`, `ready` or `failed`.
    pub stage: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// Its account, once it has one.
    pub address: Option<String>,
    /// Transactions that were proposed.
    pub proposals: Vec<ProposalInfo>,
}

/// A proposal as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalInfo {
    /// Its id, in hex.
    pub proposal: String,
    /// Who proposes it.
    pub proposer: PublicKey,
    /// Who is paid.
    pub to: String,
    /// Base units, in decimal.
    pub value: String,
    /// We have approved it.
    pub approved: bool,
    /// The signed transaction, in hex.
    pub transaction: Option<String>,
}

fn group_key(id: &Id) -> Vec<u8> {
    [b"g", &id[..]].concat()
}

fn frost_failed(error: frost::Error) -> String {
    error.to_string()
}

fn signed_message(unsigned: &[u8]) -> Vec<u8> {
    [&Domain::Transaction.tag()[..], unsigned].concat()
}

fn transfer_of(unsigned: &[u8]) -> Option<(Transaction, Address, u128)> {
    let body = Transaction::parse_unsigned(unsigned).ok()?;
    let Action::Transfer { to, value, .. } = body.action else { return None };
    Some((body, to, value))
}

impl Group {
    fn identifier(&self, member: &PublicKey) -> Option<Identifier> {
        let index = self.members.iter().position(|it| it == member)?;
        Identifier::try_from(u16::try_from(index + 1).ok()?).ok()
    }

    fn all<'a, T: 'a>(
        &self,
        from: impl Iterator<Item = (&'a PublicKey, &'a Vec<u8>)>,
        read: impl Fn(&[u8]) -> Result<T, frost::Error>,
    ) -> Result<BTreeMap<Identifier, T>, String> {
        from.map(|(member, bytes)| {
            let identifier = self.identifier(member).ok_or("a package of nobody in the group")?;
            Ok((identifier, read(bytes).map_err(frost_failed)?))
        })
        .collect()
    }

    /// The group's key, as it stands in transactions.
    fn verifying_key(&self) -> Option<PublicKey> {
        let public = PublicKeyPackage::deserialize(self.public.as_deref()?).ok()?;
        public.verifying_key().serialize().ok()?.as_slice().try_into().ok().map(PublicKey)
    }

    fn info(&self, id: &Id) -> GroupInfo {
        let stage = match (&self.failed, &self.key, self.joined) {
            (Some(_), ..) => "failed",
            (None, Some(_), _) => "ready",
            (None, None, true) => "joining",
            (None, None, false) => "invited",
        };
        let proposals = self.proposals.iter().map(|(id, proposal)| {
            let transfer = transfer_of(&proposal.unsigned);
            ProposalInfo {
                proposal: hex::encode(id),
                proposer: proposal.proposer,
                to: transfer.as_ref().map(|(_, to, _)| to.to_string()).unwrap_or_default(),
                value: transfer.as_ref().map(|(.., value)| value.to_string()).unwrap_or_default(),
                approved: proposal.approved,
                transaction: proposal.transaction.as_ref().map(|tx| blake3::hash(tx).to_hex().to_string()),
            }
        });
        GroupInfo {
            group: hex::encode(id),
            label: self.label.clone(),
            threshold: self.threshold,
            members: self.members.clone(),
            stage: stage.into(),
            reason: self.failed.clone(),
            address: self.verifying_key().map(|key| key.address().to_string()),
            proposals: proposals.collect(),
        }
    }

    /// The first packages of all, in the members' order.
    fn echo_of(&self, own: &PublicKey) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("ghost 2026 wallet group echo");
        for member in &self.members {
            let package = if member == own { Some(&self.first_own) } else { self.first.get(member) };
            let package = package.map(Vec::as_slice).unwrap_or_default();
            hasher.update(&(package.len() as u64).to_be_bytes()).update(package);
        }
        *hasher.finalize().as_bytes()
    }
}

impl Wallet {
    fn store_group(&mut self, id: &Id) {
        let value = self.groups.get(id).and_then(stored);
        self.out.write(group_key(id), value);
    }

    fn group_word(&mut self, id: &Id, peer: Option<PublicKey>, now_ms: u64, word: GroupWord) {
        self.tell(peer, now_ms, What::Group { group: hex::encode(id), word });
    }

    fn group_failed(&mut self, id: &Id, now_ms: u64, reason: String) {
        if let Some(group) = self.groups.get_mut(id) {
            group.failed = Some(reason.clone());
        }
        self.store_group(id);
        self.group_word(id, None, now_ms, GroupWord::Failed { reason });
    }

    /// All groups.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.groups.iter().map(|(id, group)| group.info(id)).collect()
    }

    /// The account of a group, once it has one.
    pub fn group_address(&self, id: &Id) -> Option<Address> {
        Some(self.groups.get(id)?.verifying_key()?.address())
    }

    /// Founds a group with others; `members` are these, with hints where they are found. A channel to each
    /// is opened where there is none.
    pub fn found_group(
        &mut self,
        label: &str,
        threshold: u16,
        members: Vec<(PublicKey, String)>,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<Id, WalletError> {
        let own = self.keys.wallet();
        let own_hint =
            self.own.as_ref().and_then(|own| own.body().mailboxes.first()).map(|it| it.node.to_string());
        let mut all: BTreeMap<PublicKey, String> = members.into_iter().collect();
        all.insert(own, own_hint.ok_or(WalletError::NoMailbox)?);
        let count = all.len();
        if !(2..=MEMBERS_MAX).contains(&count) || threshold < 2 || usize::from(threshold) > count {
            return Err(WalletError::Invalid(format!(
                "a group has 2 to {MEMBERS_MAX} members, of whom 2 to all must sign; this one would have {count}, of whom {threshold} must"
            )));
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(WalletError::Invalid(format!("a label has at most {LABEL_BYTES_MAX} bytes")));
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(WalletError::TooMany(GROUPS_MAX, "groups"));
        }
        let mut id = [0; 16];
        entropy.fill_bytes(&mut id);
        let (members, hints) = all.into_iter().unzip();
        self.groups.insert(id, Group::new(label.into(), threshold, members, hints));
        self.join_group(&id, now_ms, entropy)?;
        Ok(id)
    }

    /// Accepts an invitation.
    pub fn join_group(
        &mut self,
        id: &Id,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), WalletError> {
        let own = self.keys.wallet();
        let unknown = || WalletError::Unknown("group", hex::encode(id));
        let group = self.groups.get_mut(id).ok_or_else(unknown)?;
        if group.joined {
            return Ok(());
        }
        let (identifier, count) = (group.identifier(&own).ok_or_else(unknown)?, group.members.len() as u16);
        let (secret, package) = dkg::part1(identifier, count, group.threshold, Entropy(entropy))
            .map_err(|error| WalletError::Invalid(frost_failed(error)))?;
        let bytes = |result: Result<Vec<u8>, frost::Error>| {
            result.map_err(|error| WalletError::Invalid(frost_failed(error)))
        };
        group.first_secret = Some(bytes(secret.serialize())?);
        group.first_own = bytes(package.serialize())?;
        group.joined = true;
        let invite = WalletGroupInvite {
            id: Bytes::copy_from_slice(id),
            threshold: group.threshold.into(),
            members: group.members.iter().map(|member| Bytes::copy_from_slice(&member.0)).collect(),
            hints: group.hints.clone(),
            label: group.label.clone(),
            package: group.first_own.clone().into(),
        };
        let others: Vec<_> = group.members.iter().copied().zip(group.hints.clone()).collect();
        for (member, hint) in others.into_iter().filter(|(member, _)| *member != own) {
            match self.post(&member, Body::GroupInvite(invite.clone()), now_ms, entropy) {
                // It is sent when the channel is there.
                Err(WalletError::NoChannel(_)) => self.out.wanted.push((member, hint)),
                other => {
                    other?;
                }
            }
        }
        self.advance_group(id, now_ms, entropy);
        Ok(())
    }

    /// The first packages of groups, for a peer to whom a channel has just been begun.
    pub fn greet_for_groups(&mut self, peer: &PublicKey, now_ms: u64, entropy: &mut impl CryptoRng) {
        let invites: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.joined && group.key.is_none() && group.members.contains(peer))
            .map(|(id, group)| WalletGroupInvite {
                id: Bytes::copy_from_slice(id),
                threshold: group.threshold.into(),
                members: group.members.iter().map(|member| Bytes::copy_from_slice(&member.0)).collect(),
                hints: group.hints.clone(),
                label: group.label.clone(),
                package: group.first_own.clone().into(),
            })
            .collect();
        for invite in invites {
            // A full queue: the group waits until somebody asks again.
            let _ = self.post(peer, Body::GroupInvite(invite), now_ms, entropy);
        }
        let ids: Vec<Id> = self.groups.keys().copied().collect();
        ids.iter().for_each(|id| self.advance_group(id, now_ms, entropy));
    }

    pub(super) fn on_group_invite(
        &mut self,
        peer: &PublicKey,
        invite: WalletGroupInvite,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let id = id_of(&invite.id)?;
        let own = self.keys.wallet();
        let members: Option<Vec<PublicKey>> =
            invite.members.iter().map(|bytes| bytes.as_ref().try_into().ok().map(PublicKey)).collect();
        let members = members.ok_or(Refused::Malformed)?;
        let threshold = u16::try_from(invite.threshold).map_err(|_| Refused::Malformed)?;
        let sound = (2..=MEMBERS_MAX).contains(&members.len())
            && (2..=members.len()).contains(&usize::from(threshold))
            && members.is_sorted_by(|a, b| a < b)
            && members.contains(&own)
            && members.contains(peer)
            && invite.hints.len() == members.len()
            && invite.hints.iter().all(|hint| hint.len() <= 256)
            && invite.label.len() <= LABEL_BYTES_MAX
            && (1..=PACKAGE_BYTES_MAX).contains(&invite.package.len());
        if !sound {
            return Err(Refused::Malformed);
        }
        if !self.groups.contains_key(&id) {
            if self.groups.len() >= GROUPS_MAX {
                return Err(Refused::TooMuch);
            }
            let group = Group::new(invite.label.clone(), threshold, members.clone(), invite.hints.clone());
            self.groups.insert(id, group);
            let word = GroupWord::Invited {
                label: invite.label,
                threshold: invite.threshold,
                members: members.clone(),
            };
            self.group_word(&id, Some(*peer), now_ms, word);
        }
        let group = self.groups.get_mut(&id).expect("made above");
        if group.members != members || group.threshold != threshold {
            return Err(Refused::Malformed);
        }
        // The first word counts: another one is what the echo is there to find.
        group.first.entry(*peer).or_insert_with(|| invite.package.to_vec());
        self.store_group(&id);
        self.advance_group(&id, now_ms, entropy);
        Ok(())
    }

    pub(super) fn on_group_share(
        &mut self,
        peer: &PublicKey,
        share: WalletGroupShare,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let id = id_of(&share.id)?;
        let echo = share.echo.as_ref().try_into().map_err(|_| Refused::Malformed)?;
        let group = self.groups.get_mut(&id).ok_or(Refused::Malformed)?;
        if !group.members.contains(peer) || share.package.len() > PACKAGE_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        group.second.entry(*peer).or_insert_with(|| (echo, share.package.to_vec()));
        self.store_group(&id);
        self.advance_group(&id, now_ms, entropy);
        Ok(())
    }

    /// Takes the next steps of making a key, as far as what is here allows.
    fn advance_group(&mut self, id: &Id, now_ms: u64, entropy: &mut impl CryptoRng) {
        if let Err(reason) = self.second_step(id, now_ms, entropy).and_then(|()| self.third_step(id, now_ms))
        {
            self.group_failed(id, now_ms, reason);
        }
        self.store_group(id);
    }

    fn second_step(&mut self, id: &Id, now_ms: u64, entropy: &mut impl CryptoRng) -> Result<(), String> {
        let own = self.keys.wallet();
        let Some(group) = self.groups.get_mut(id) else { return Ok(()) };
        let others = group.members.len() - 1;
        let here = group.members.iter().all(|member| *member == own || self.channels.contains_key(member));
        if !group.joined || group.failed.is_some() || group.first.len() < others || !here {
            return Ok(());
        }
        let Some(secret) = group.first_secret.take() else { return Ok(()) };
        let secret = dkg::round1::SecretPackage::deserialize(&secret).map_err(frost_failed)?;
        let packages = group.all(group.first.iter(), dkg::round1::Package::deserialize)?;
        let (secret, shares) = dkg::part2(secret, &packages).map_err(frost_failed)?;
        group.second_secret = Some(secret.serialize().map_err(frost_failed)?);
        let echo = group.echo_of(&own);
        group.echo = Some(echo);
        let mut bodies = Vec::new();
        for member in group.members.iter().filter(|member| **member != own) {
            let share =
                group.identifier(member).and_then(|it| shares.get(&it)).ok_or("a member has no share")?;
            let package = share.serialize().map_err(frost_failed)?;
            let body = WalletGroupShare {
                id: Bytes::copy_from_slice(id),
                echo: Bytes::copy_from_slice(&echo),
                package: package.into(),
            };
            bodies.push((*member, body));
        }
        for (member, body) in bodies {
            self.post(&member, Body::GroupShare(body), now_ms, entropy).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn third_step(&mut self, id: &Id, now_ms: u64) -> Result<(), String> {
        let Some(group) = self.groups.get_mut(id) else { return Ok(()) };
        let others = group.members.len() - 1;
        let Some(echo) = group.echo else { return Ok(()) };
        if group.key.is_some() || group.failed.is_some() || group.second.len() < others {
            return Ok(());
        }
        if let Some((member, _)) = group.second.iter().find(|(_, (theirs, _))| *theirs != echo) {
            return Err(format!("{member} was told other first packages than this wallet: somebody cheats"));
        }
        let secret = group.second_secret.take().ok_or("its second secret is gone")?;
        let secret = dkg::round2::SecretPackage::deserialize(&secret).map_err(frost_failed)?;
        let first = group.all(group.first.iter(), dkg::round1::Package::deserialize)?;
        let second = group.all(
            group.second.iter().map(|(member, (_, package))| (member, package)),
            dkg::round2::Package::deserialize,
        )?;
        let (key, public) = dkg::part3(&secret, &first, &second).map_err(frost_failed)?;
        group.key = Some(key.serialize().map_err(frost_failed)?);
        group.public = Some(public.serialize().map_err(frost_failed)?);
        // What it took to get here is of no more use to anybody but a thief.
        group.second.clear();
        group.first.clear();
        let key = group.verifying_key().ok_or("its key is no ed25519 key")?;
        let word = GroupWord::Ready { address: key.address().to_string(), key };
        self.group_word(id, None, now_ms, word);
        Ok(())
    }

    /// Proposes that the group pays. The id of the proposal; whoever proposes approves.
    pub fn propose(
        &mut self,
        id: &Id,
        to: Address,
        value: u128,
        facts: ChainFacts,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<Id, WalletError> {
        let own = self.keys.wallet();
        let group = self.groups.get_mut(id).ok_or_else(|| WalletError::Unknown("group", hex::encode(id)))?;
        let key = group.verifying_key().ok_or_else(|| {
            WalletError::Invalid("the group has no key yet: all members must join first".into())
        })?;
        let unsigned = Transaction {
            chain_id: facts.chain_id,
            sender_key: key,
            nonce: facts.nonce,
            gas_limit: facts.gas_limit,
            gas_price: facts.gas_price,
            action: Action::Transfer { to, value, payload: Bytes::new() },
        }
        .unsigned_bytes();
        let mut proposal = [0; 16];
        entropy.fill_bytes(&mut proposal);
        group.make_room();
        group.proposals.insert(proposal, Proposal::new(own, unsigned.clone(), now_ms));
        let others: Vec<_> = group.members.iter().copied().filter(|member| *member != own).collect();
        let body = WalletGroupPropose {
            id: Bytes::copy_from_slice(id),
            proposal: Bytes::copy_from_slice(&proposal),
            unsigned: unsigned.into(),
        };
        for member in others {
            self.post(&member, Body::GroupPropose(body.clone()), now_ms, entropy)?;
        }
        self.approve(id, &proposal, now_ms, entropy)?;
        Ok(proposal)
    }

    pub(super) fn on_group_propose(
        &mut self,
        peer: &PublicKey,
        propose: WalletGroupPropose,
        now_ms: u64,
        _entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (id, proposal) = (id_of(&propose.id)?, id_of(&propose.proposal)?);
        let group = self.groups.get_mut(&id).ok_or(Refused::Malformed)?;
        let (body, to, value) = transfer_of(&propose.unsigned).ok_or(Refused::Malformed)?;
        // A member may have its key a moment before we have ours, but not propose before all have joined.
        let known_key = group.verifying_key().is_none_or(|key| key == body.sender_key);
        if !group.members.contains(peer) || !known_key || group.proposals.contains_key(&proposal) {
            return Err(Refused::Malformed);
        }
        group.make_room();
        group.proposals.insert(proposal, Proposal::new(*peer, propose.unsigned.to_vec(), now_ms));
        self.store_group(&id);
        let word = GroupWord::Proposed {
            proposal: hex::encode(proposal),
            to: to.to_string(),
            value: value.to_string(),
            fee_max: (u128::from(body.gas_limit) * u128::from(body.gas_price)).to_string(),
            nonce: body.nonce,
        };
        self.group_word(&id, Some(*peer), now_ms, word);
        Ok(())
    }

    /// Approves a proposal: commits to nonces, at the proposer.
    pub fn approve(
        &mut self,
        id: &Id,
        proposal_id: &Id,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), WalletError> {
        let own = self.keys.wallet();
        let group = self.groups.get_mut(id).ok_or_else(|| WalletError::Unknown("group", hex::encode(id)))?;
        let invalid = |text: String| WalletError::Invalid(text);
        let key = group
            .key
            .as_deref()
            .ok_or_else(|| invalid("the group has no key yet: all members must join first".into()))?;
        let key = KeyPackage::deserialize(key).map_err(|error| invalid(frost_failed(error)))?;
        let group_key = group.verifying_key();
        let proposal = group
            .proposals
            .get_mut(proposal_id)
            .ok_or_else(|| WalletError::Unknown("proposal", hex::encode(proposal_id)))?;
        if proposal.approved {
            return Ok(());
        }
        let sender = transfer_of(&proposal.unsigned).map(|(body, ..)| body.sender_key);
        if sender != group_key {
            return Err(invalid("the proposal is not for this group's account".into()));
        }
        let (nonces, commitments) = frost::round1::commit(key.signing_share(), &mut Entropy(entropy));
        proposal.nonces = Some(nonces.serialize().map_err(|error| invalid(frost_failed(error)))?);
        proposal.approved = true;
        let commitments = commitments.serialize().map_err(|error| invalid(frost_failed(error)))?;
        let proposer = proposal.proposer;
        if proposer == own {
            proposal.commitments.insert(own, commitments);
            self.try_sign(id, proposal_id, now_ms, entropy);
        } else {
            let body = WalletGroupCommit {
                id: Bytes::copy_from_slice(id),
                proposal: Bytes::copy_from_slice(proposal_id),
                commitments: commitments.into(),
            };
            self.post(&proposer, Body::GroupCommit(body), now_ms, entropy)?;
        }
        self.store_group(id);
        Ok(())
    }

    pub(super) fn on_group_commit(
        &mut self,
        peer: &PublicKey,
        commit: WalletGroupCommit,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (id, proposal_id) = (id_of(&commit.id)?, id_of(&commit.proposal)?);
        let own = self.keys.wallet();
        let group = self.groups.get_mut(&id).ok_or(Refused::Malformed)?;
        if !group.members.contains(peer) || SigningCommitments::deserialize(&commit.commitments).is_err() {
            return Err(Refused::Malformed);
        }
        let proposal = group.proposals.get_mut(&proposal_id).ok_or(Refused::Malformed)?;
        if proposal.proposer != own {
            return Err(Refused::Malformed);
        }
        // Who comes after enough others is not needed.
        if proposal.package.is_none() {
            proposal.commitments.entry(*peer).or_insert_with(|| commit.commitments.to_vec());
            self.try_sign(&id, &proposal_id, now_ms, entropy);
        }
        self.store_group(&id);
        Ok(())
    }

    /// The proposer, with enough commitments: tells who is to sign what, and signs.
    fn try_sign(&mut self, id: &Id, proposal_id: &Id, now_ms: u64, entropy: &mut impl CryptoRng) {
        let own = self.keys.wallet();
        let made = || -> Result<Option<ToSign>, String> {
            let Some(group) = self.groups.get(id) else { return Ok(None) };
            let Some(proposal) = group.proposals.get(proposal_id) else { return Ok(None) };
            if proposal.package.is_some()
                || !proposal.commitments.contains_key(&own)
                || proposal.commitments.len() < usize::from(group.threshold)
            {
                return Ok(None);
            }
            // We are one of them; the others in the order of their keys.
            let others = proposal.commitments.keys().filter(|member| **member != own);
            let signers: Vec<PublicKey> =
                others.copied().take(usize::from(group.threshold) - 1).chain([own]).collect();
            let commitments = group.all(
                proposal.commitments.iter().filter(|(member, _)| signers.contains(member)),
                SigningCommitments::deserialize,
            )?;
            let package = frost::SigningPackage::new(commitments, &signed_message(&proposal.unsigned));
            Ok(Some((signers, package.serialize().map_err(frost_failed)?)))
        };
        let (signers, package) = match made() {
            Ok(Some(made)) => made,
            Ok(None) => return,
            Err(reason) => {
                return self.group_word(id, None, now_ms, GroupWord::Failed { reason });
            }
        };
        let Some(proposal) = self.groups.get_mut(id).and_then(|it| it.proposals.get_mut(proposal_id)) else {
            return;
        };
        proposal.package = Some(package.clone());
        let body = WalletGroupSign {
            id: Bytes::copy_from_slice(id),
            proposal: Bytes::copy_from_slice(proposal_id),
            package: package.into(),
        };
        for member in signers.iter().filter(|member| **member != own) {
            // A full queue: this member does not sign, and the proposal has to be made again.
            let _ = self.post(member, Body::GroupSign(body.clone()), now_ms, entropy);
        }
        match self.own_share(id, proposal_id) {
            Ok(share) => self.take_share(id, proposal_id, own, share, now_ms, entropy),
            Err(reason) => self.group_word(id, None, now_ms, GroupWord::Failed { reason }),
        }
    }

    /// Our share of the signature over what was proposed, under the package that is stored. Uses up the nonces.
    fn own_share(&mut self, id: &Id, proposal_id: &Id) -> Result<Vec<u8>, String> {
        let group = self.groups.get_mut(id).ok_or("no such group")?;
        let key = KeyPackage::deserialize(group.key.as_deref().ok_or("the group has no key")?)
            .map_err(frost_failed)?;
        let proposal = group.proposals.get_mut(proposal_id).ok_or("no such proposal")?;
        let package = proposal.package.as_deref().ok_or("there is nothing to sign yet")?;
        let package = frost::SigningPackage::deserialize(package).map_err(frost_failed)?;
        // # Security
        // What is signed is what was shown, and the nonces are ours and fresh.
        if package.message() != &signed_message(&proposal.unsigned) {
            return Err("the proposer wants something else signed than it proposed".into());
        }
        let nonces = proposal.nonces.take().ok_or("these nonces have signed already")?;
        let nonces = SigningNonces::deserialize(&nonces).map_err(frost_failed)?;
        let share = frost::round2::sign(&package, &nonces, &key).map_err(frost_failed)?;
        Ok(share.serialize())
    }

    pub(super) fn on_group_sign(
        &mut self,
        peer: &PublicKey,
        sign: WalletGroupSign,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (id, proposal_id) = (id_of(&sign.id)?, id_of(&sign.proposal)?);
        let group = self.groups.get_mut(&id).ok_or(Refused::Malformed)?;
        let proposal = group.proposals.get_mut(&proposal_id).ok_or(Refused::Malformed)?;
        if proposal.proposer != *peer || !proposal.approved || proposal.package.is_some() {
            return Err(Refused::Malformed);
        }
        proposal.package = Some(sign.package.to_vec());
        match self.own_share(&id, &proposal_id) {
            Ok(share) => {
                let body = WalletGroupSignature {
                    id: Bytes::copy_from_slice(&id),
                    proposal: Bytes::copy_from_slice(&proposal_id),
                    share: share.into(),
                };
                // A full queue: the proposal has to be made again.
                let _ = self.post(peer, Body::GroupSignature(body), now_ms, entropy);
            }
            Err(reason) => self.group_word(&id, Some(*peer), now_ms, GroupWord::Failed { reason }),
        }
        self.store_group(&id);
        Ok(())
    }

    pub(super) fn on_group_signature(
        &mut self,
        peer: &PublicKey,
        signature: WalletGroupSignature,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (id, proposal_id) = (id_of(&signature.id)?, id_of(&signature.proposal)?);
        let own = self.keys.wallet();
        let proposal = self.groups.get(&id).and_then(|group| group.proposals.get(&proposal_id));
        let expected = proposal.is_some_and(|proposal| {
            proposal.proposer == own
                && proposal.package.is_some()
                && proposal.commitments.contains_key(peer)
                && !proposal.shares.contains_key(peer)
        });
        if !expected || SignatureShare::deserialize(&signature.share).is_err() {
            return Err(Refused::Malformed);
        }
        self.take_share(&id, &proposal_id, *peer, signature.share.to_vec(), now_ms, entropy);
        self.store_group(&id);
        Ok(())
    }

    fn take_share(
        &mut self,
        id: &Id,
        proposal_id: &Id,
        from: PublicKey,
        share: Vec<u8>,
        now_ms: u64,
        entropy: &mut impl CryptoRng,
    ) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let threshold = usize::from(group.threshold);
        let Some(proposal) = group.proposals.get_mut(proposal_id) else { return };
        proposal.shares.insert(from, share);
        if proposal.shares.len() < threshold || proposal.transaction.is_some() {
            return;
        }
        match self.aggregate(id, proposal_id) {
            Ok(tx) => {
                let own = self.keys.wallet();
                let group = self.groups.get_mut(id).expect("looked at above");
                let proposal = group.proposals.get_mut(proposal_id).expect("looked at above");
                proposal.transaction = Some(tx.bytes().to_vec());
                let others: Vec<_> = group.members.iter().copied().filter(|member| *member != own).collect();
                let body = WalletGroupDone {
                    id: Bytes::copy_from_slice(id),
                    proposal: Bytes::copy_from_slice(proposal_id),
                    transaction: tx.bytes().clone(),
                };
                for member in others {
                    // Whoever does not hear of it finds it on the chain.
                    let _ = self.post(&member, Body::GroupDone(body.clone()), now_ms, entropy);
                }
                self.watch_group(&tx, true, now_ms);
                let word = GroupWord::Signed {
                    proposal: hex::encode(proposal_id),
                    transaction: tx.id().to_string(),
                };
                self.group_word(id, None, now_ms, word);
            }
            Err(reason) => self.group_word(id, None, now_ms, GroupWord::Failed { reason }),
        }
    }

    fn aggregate(&self, id: &Id, proposal_id: &Id) -> Result<SignedTransaction, String> {
        let group = self.groups.get(id).ok_or("no such group")?;
        let proposal = group.proposals.get(proposal_id).ok_or("no such proposal")?;
        let package = proposal.package.as_deref().ok_or("nothing was to be signed")?;
        let package = frost::SigningPackage::deserialize(package).map_err(frost_failed)?;
        let shares = group.all(proposal.shares.iter(), SignatureShare::deserialize)?;
        let public = group.public.as_deref().ok_or("the group has no key")?;
        let public = PublicKeyPackage::deserialize(public).map_err(frost_failed)?;
        let signature = frost::aggregate(&package, &shares, &public).map_err(frost_failed)?;
        let bytes: [u8; 64] = signature
            .serialize()
            .map_err(frost_failed)?
            .try_into()
            .map_err(|_| "a signature has 64 bytes".to_owned())?;
        let body = Transaction::parse_unsigned(&proposal.unsigned).map_err(|error| error.to_string())?;
        // By the chain's own rules.
        let tx = body.with_signature(&Signature(bytes)).map_err(|error| error.to_string())?;
        Ok(tx.into_signed())
    }

    pub(super) fn on_group_done(
        &mut self,
        peer: &PublicKey,
        done: WalletGroupDone,
        now_ms: u64,
        _entropy: &mut impl CryptoRng,
    ) -> Result<(), Refused> {
        let (id, proposal_id) = (id_of(&done.id)?, id_of(&done.proposal)?);
        let group = self.groups.get_mut(&id).ok_or(Refused::Malformed)?;
        let proposal = group.proposals.get_mut(&proposal_id).ok_or(Refused::Malformed)?;
        let tx = SignedTransaction::parse(done.transaction)
            .ok()
            .and_then(|tx| tx.verify().ok())
            .ok_or(Refused::Malformed)?
            .into_signed()
            .detached();
        if proposal.proposer != *peer || tx.body().unsigned_bytes() != proposal.unsigned {
            return Err(Refused::Malformed);
        }
        proposal.transaction = Some(tx.bytes().to_vec());
        proposal.nonces = None;
        self.store_group(&id);
        self.watch_group(&tx, false, now_ms);
        let word = GroupWord::Signed { proposal: hex::encode(proposal_id), transaction: tx.id().to_string() };
        self.group_word(&id, Some(*peer), now_ms, word);
        Ok(())
    }
}

impl Group {
    fn new(label: String, threshold: u16, members: Vec<PublicKey>, hints: Vec<String>) -> Self {
        Self {
            label,
            threshold,
            members,
            hints,
            joined: false,
            first_secret: None,
            first_own: Vec::new(),
            first: BTreeMap::new(),
            second_secret: None,
            echo: None,
            second: BTreeMap::new(),
            key: None,
            public: None,
            failed: None,
            proposals: BTreeMap::new(),
        }
    }

    fn make_room(&mut self) {
        if self.proposals.len() >= PROPOSALS_MAX
            && let Some(id) = self.proposals.iter().min_by_key(|(_, it)| it.time_unix_ms).map(|(id, _)| *id)
        {
            self.proposals.remove(&id);
        }
    }
}

impl Proposal {
    fn new(proposer: PublicKey, unsigned: Vec<u8>, time_unix_ms: u64) -> Self {
        Self {
            proposer,
            unsigned,
            approved: false,
            nonces: None,
            commitments: BTreeMap::new(),
            package: None,
            shares: BTreeMap::new(),
            transaction: None,
            time_unix_ms,
        }
    }
}
