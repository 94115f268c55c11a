//! What happens in a wallet, for people.

use ghost_wallet_channel::session::{Event, GroupWord, What};
use serde_json::Value;

use crate::cli::output::bytes_for_people;

/// One line.
pub(super) fn text(event: &Event) -> String {
    let peer = event.peer.map(|peer| peer.to_string()[..12].to_owned() + "…").unwrap_or_default();
    match &event.what {
        What::ChannelOpened { by_peer: true } => format!("{peer} has opened a channel"),
        What::ChannelOpened { by_peer: false } => format!("the channel to {peer} is open"),
        What::Acknowledged { up_to } => format!("{peer} has all up to message {up_to}"),
        What::Text { text } => format!("{peer}: {text}"),
        What::PaymentRequested { request, value, memo, .. } => {
            format!(
                "{peer} asks for {value} base units: {memo}\n  to pay: ghostd wallet channel pay {request}"
            )
        }
        What::PaymentReceived { transaction, value, accepted: true, .. } => {
            format!("{peer} has paid {value} base units, by {transaction}; waiting for a block")
        }
        What::PaymentReceived { transaction, value, .. } => {
            format!("{peer} has sent {transaction} over {value} base units, which is not what was asked for")
        }
        What::PaymentConfirmed { transaction, height, accepted, r#final } => format!(
            "{peer} {} {transaction} in block {height}{}",
            if *accepted { "confirms" } else { "does not accept" },
            if *r#final { ", final" } else { "" }
        ),
        What::TransactionSeen { transaction, height, r#final, success } => format!(
            "{transaction} stands in block {height}{}{}",
            if *r#final { ", final" } else { "" },
            if *success { "" } else { "; it failed" }
        ),
        What::FileOffered { name, bytes, taken, .. } => format!(
            "{peer} sends {name}, {}{}",
            bytes_for_people(*bytes),
            if *taken { "" } else { "; it is larger than this wallet takes" }
        ),
        What::FileProgress { done_bytes, bytes, sent, .. } => format!(
            "{} {} of {}",
            if *sent { "sent" } else { "received" },
            bytes_for_people(*done_bytes),
            bytes_for_people(*bytes)
        ),
        What::FileDone { name, bytes, sent: true, .. } => {
            format!("{peer} has {name}, {}", bytes_for_people(*bytes))
        }
        What::FileDone { name, bytes, .. } => format!("{name} is here, {}", bytes_for_people(*bytes)),
        What::FileFailed { file, name, reason } => format!("the file {name} ({file}) failed: {reason}"),
        What::Group { group, word } => match word {
            GroupWord::Invited { label, threshold, members } => format!(
                "{peer} invites to the group `{label}`: {threshold} of {} sign\n  to accept: ghostd wallet multisig join {group}",
                members.len()
            ),
            GroupWord::Ready { address, .. } => {
                format!("the group {group} is ready; its account is {address}")
            }
            GroupWord::Failed { reason } => format!("the group {group} failed: {reason}"),
            GroupWord::Proposed { proposal, to, value, fee_max, .. } => format!(
                "{peer} proposes to pay {value} base units to {to} (fee at most {fee_max})\n  to sign: ghostd wallet multisig approve {group} {proposal}"
            ),
            GroupWord::Signed { transaction, .. } => format!("the group {group} has signed {transaction}"),
        },
    }
}

/// An answer as columns: names and values, lists below each other.
pub(super) fn answer_text(answer: &Value) -> String {
    fn scalar(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Null => "–".into(),
            Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        }
    }
    fn object(value: &Value, out: &mut String) {
        let Some(fields) = value.as_object() else {
            *out += &scalar(value);
            out.push('\n');
            return;
        };
        for (name, value) in fields {
            match value {
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    for item in items {
                        object(item, out);
                        out.push('\n');
                    }
                }
                Value::Object(_) => {
                    if let Ok(event) = serde_json::from_value::<Event>(value.clone()) {
                        *out += &format!("{:<14}{}\n", "then", text(&event));
                    }
                }
                value => *out += &format!("{name:<14}{}\n", scalar(value)),
            }
        }
    }
    // Events read better as they are told when they happen.
    if let Some(events) = answer["events"].as_array() {
        let told = events.iter().filter_map(|event| serde_json::from_value::<Event>(event.clone()).ok());
        return told.map(|event| format!("{:>5}  {}\n", event.number, text(&event))).collect();
    }
    let mut out = String::new();
    object(answer, &mut out);
    match out.trim() {
        "" => "none".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_read_as_names_and_values_and_empty_ones_say_so() {
        assert_eq!(answer_text(&json!({ "channels": [] })), "channels");
        let text = answer_text(&json!({ "channels": [{ "peer": "ab", "waiting": 2 }], "more": null }));
        assert!(
            text.contains("peer          ab") && text.contains("waiting       2") && text.contains('–'),
            "{text}"
        );
    }
}
