//! What the operator commands about peers, and what it is told.

use ghost_discovery::{
    conduct::{self, Ban, What as StoryWhat},
    overlay::{ExplainedAddress, Explanation, Input},
};
use ghost_frames::Code;
use ghost_proto::{Multiaddr, PeerId, message};

use super::{Running, setup::static_peer};

impl Running {
    pub(super) fn operator(
        &mut self,
        what: message::peer_command::What,
    ) -> Result<message::PeerCommandAnswer, String> {
        use message::peer_command::What;
        let peer = |bytes: &[u8]| PeerId::from_bytes(bytes).map_err(|_| "that is no PeerId".to_owned());
        let mut story = Vec::new();
        let message = match what {
            What::Add(address) => {
                let address: Multiaddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
                let added = static_peer(&address)?;
                if added.peer == Some(self.service.overlay.peer_id()) {
                    return Err(format!("{address} is this node itself"));
                }
                self.input(Input::AddStatic(added));
                format!("{address} is dialled from now on, until the node stops")
            }
            What::Drop(id) => {
                let id = peer(&id)?;
                self.input(Input::OperatorDrop(id));
                match self.service.overlay.session(&id) {
                    Some(session) => {
                        session.close(Code::Dropped, "dropped by the operator");
                        format!("{id} is dropped; it may come back")
                    }
                    None => format!("{id} was not connected"),
                }
            }
            What::Ban(ban) => {
                let id = peer(&ban.peer)?;
                let until = (ban.seconds > 0)
                    .then(|| self.service.book.now().unix_ms + ban.seconds.saturating_mul(1000));
                let reason = "banned by the operator".to_owned();
                self.input(Input::OperatorBan { peer: id, until_unix_ms: until, reason });
                if let Some(session) = self.service.overlay.session(&id) {
                    session.close(Code::Refused, "banned by the operator");
                }
                match ban.seconds {
                    0 => format!("{id} is banned until it is unbanned"),
                    seconds => format!("{id} is banned for {seconds} s"),
                }
            }
            What::Unban(id) => {
                let id = peer(&id)?;
                let banned = self
                    .service
                    .book
                    .lock()
                    .ledger()
                    .banned(&id, self.service.book.clock.unix_ms())
                    .is_some();
                self.input(Input::OperatorUnban(id));
                if banned { format!("{id} is no longer banned") } else { format!("{id} was not banned") }
            }
            // Takes time, and is taken before it comes here.
            What::Find(_) => return Err("a lookup is no answer of a moment".into()),
            What::Explain(id) => {
                let id = peer(&id)?;
                let explained = self.service.book.lock().explain(&id, self.service.book.now());
                let text = describe(&id, &explained);
                story = explained
                    .story
                    .map(|story| story.events)
                    .unwrap_or_default()
                    .into_iter()
                    .map(story_row)
                    .collect();
                text
            }
        };
        Ok(message::PeerCommandAnswer { message, story })
    }
}

/// The state of things, before the story of how it came about.
fn describe(id: &PeerId, explained: &Explanation) -> String {
    let mut text = match explained.connection {
        Some(kind) => format!("{id} is connected ({kind})"),
        None => format!("{id} is not connected"),
    };
    if explained.is_static {
        text += "; the operator wants it to be";
    }
    text += &format!("; conduct {:.0} of {}", explained.score, conduct::BAN_LINE);
    match &explained.ban {
        Some(Ban { until_unix_ms: None, reason }) => text += &format!("; banned for good: {reason}"),
        Some(Ban { until_unix_ms: Some(until), reason }) => {
            text += &format!("; banned until Unix time {} s: {reason}", until / 1000);
        }
        None => {}
    }
    if let Some(reason) = explained.refused_as {
        text += &format!("; it would not be let in: {reason}");
    }
    if explained.addresses.is_empty() {
        text += "\n  no address of it is known, so it is not dialled";
    }
    for address in &explained.addresses {
        let ExplainedAddress { address, table, source, netgroup, attempts, paused_s, refused, .. } = address;
        text += &format!("\n  {address} ({table}, of {netgroup}, told by {source}");
        if *attempts > 0 {
            text += &format!(", {attempts} failures since it was reached");
        }
        if *paused_s > 0 {
            text += &format!(", not dialled for another {paused_s} s");
        }
        if let Some(refusal) = refused {
            text += &format!(", would be refused from there: {refusal}");
        }
        text += ")";
    }
    text
}

fn story_row(event: conduct::Event) -> message::PeerStory {
    let name = match &event.what {
        StoryWhat::Note(note) => note.name().to_owned(),
        StoryWhat::Offence { offence, weight } => format!("offence {} (+{weight:.0})", offence.name()),
        StoryWhat::Banned { until_unix_ms: None } => "banned for good".to_owned(),
        StoryWhat::Banned { until_unix_ms: Some(until) } => {
            format!("banned for {} s", until.saturating_sub(event.at_unix_ms) / 1000)
        }
        StoryWhat::Unbanned => "unbanned".to_owned(),
    };
    let times = if event.times > 1 { format!(" (×{})", event.times) } else { String::new() };
    message::PeerStory { time_unix_ms: event.at_unix_ms, event: name, detail: event.detail + &times }
}
