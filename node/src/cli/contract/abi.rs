//! Speaking a contract's language: arguments in, values, events and reverts out, after the Solidity
//! ABI specification.

use std::path::Path;

use alloy_dyn_abi::{DynSolType, DynSolValue, ErrorExt, EventExt, FunctionExt, JsonAbiExt, Specifier};
use alloy_json_abi::{Event, Function, JsonAbi, Param};
use ghost_proto::{LogEntry, Outcome};
use serde_json::{Map, Value, json};

use crate::cli::output::Failure;

/// Longest ABI file that is read.
const ABI_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Selector of `Error(string)`: what `revert("…")` and `require(…, "…")` give.
const ERROR_SELECTOR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];
/// Selector of `Panic(uint256)`.
const PANIC_SELECTOR: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];

/// What is known of a contract.
#[derive(Debug, Default)]
pub(super) struct Abi(JsonAbi);

impl Abi {
    /// Reads a JSON ABI, or a compiler's artifact that has one under `abi`.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::default()) };
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::new(format!("{} is no ABI: {error}", path.display()))
                .hint("give the JSON that the compiler wrote: a list, or an object with `abi`")
        };
        let length = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
        if length > ABI_BYTES_MAX {
            return Err(cannot(&format!("it has {length} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
        let mut json: Value = serde_json::from_str(&text).map_err(|error| cannot(&error))?;
        if let Some(abi) = json.get_mut("abi") {
            json = abi.take();
        }
        serde_json::from_value(json).map(Self).map_err(|error| cannot(&error))
    }

    /// A method by its signature, or by its name if the ABI is known.
    pub(super) fn method(&self, name: &str) -> Result<Method, Failure> {
        if name.contains('(') {
            // `f(a)(b)` is what people write for `f(a) returns (b)`.
            let text = match name.split_once(")(") {
                Some((head, outputs)) => format!("{head}) returns ({outputs}"),
                None => name.to_owned(),
            };
            return Function::parse(&text).map(Method).map_err(|error| {
                Failure::usage(format!("`{name}` is no signature: {error}"))
                    .hint("write it as in balanceOf(address)(uint256)")
            });
        }
        match self.0.function(name).map(Vec::as_slice) {
            Some([one]) => Ok(Method(one.clone())),
            Some(several) => {
                let all: Vec<_> = several.iter().map(Function::signature).collect();
                Err(Failure::usage(format!("there are several methods `{name}`"))
                    .hint(format!("name one by its signature: {}", all.join(", "))))
            }
            None => {
                let all: Vec<_> = self.0.functions().map(Function::signature).collect();
                let known =
                    if all.is_empty() { "none; name one with --abi FILE".into() } else { all.join(", ") };
                Err(Failure::usage(format!("`{name}` is no method that is known"))
                    .hint(format!("known are: {known}")))
            }
        }
    }

    /// The arguments of the constructor, encoded as they stand behind its code.
    pub(super) fn constructor(&self, args: &[String]) -> Result<Vec<u8>, Failure> {
        let inputs = self.0.constructor.as_ref().map_or(&[][..], |constructor| &constructor.inputs);
        let values = coerce("the constructor", inputs, args)?;
        Ok(DynSolValue::Tuple(values).abi_encode_params())
    }

    /// The first topic of an event by its signature, its name, or 64 hex digits.
    pub(super) fn topic(&self, text: &str) -> Result<[u8; 32], Failure> {
        if let Ok(bytes) = hex::decode(text.strip_prefix("0x").unwrap_or(text)) {
            let mut topic = [0; 32];
            if bytes.len() > 32 {
                return Err(Failure::usage(format!("a topic of {} bytes; 32 are the most", bytes.len())));
            }
            // Addresses and numbers stand at the end.
            topic[32 - bytes.len()..].copy_from_slice(&bytes);
            return Ok(topic);
        }
        if text.contains('(') {
            let event = Event::parse(text).map_err(|error| {
                Failure::usage(format!("`{text}` is no event: {error}"))
                    .hint("write it as in Transfer(address,address,uint256)")
            })?;
            return Ok(event.selector().0);
        }
        match self.0.event(text).map(Vec::as_slice) {
            Some([event, ..]) => Ok(event.selector().0),
            _ => Err(Failure::usage(format!("`{text}` is neither 64 hex digits nor an event that is known"))
                .hint("write its signature, as in Transfer(address,address,uint256), or give --abi FILE")),
        }
    }

    /// Name and values of a log, if its event is known.
    pub(super) fn event(&self, entry: &LogEntry) -> Option<(String, Value)> {
        let first = entry.topics.first()?;
        let event = self.0.events().find(|event| event.selector().0 == *first)?;
        let topics = entry.topics.iter().map(|topic| topic.into());
        let decoded = event.decode_log_parts(topics, &entry.data).ok()?;
        let (mut indexed, mut body) = (decoded.indexed.into_iter(), decoded.body.into_iter());
        let mut values = Map::new();
        for (place, input) in event.inputs.iter().enumerate() {
            let value = if input.indexed { indexed.next() } else { body.next() }?;
            let name = if input.name.is_empty() { place.to_string() } else { input.name.clone() };
            values.insert(name, to_json(&value));
        }
        Some((event.name.clone(), Value::Object(values)))
    }

    /// Why a call was undone, for people.
    pub(super) fn revert(&self, outcome: Outcome, output: &[u8]) -> String {
        if outcome != Outcome::Reverted {
            return match outcome {
                Outcome::OutOfGas => "it ran out of gas; give it more with --gas".into(),
                Outcome::Fault => "the code did what its machine forbids".into(),
                Outcome::InsufficientBalance => "the account cannot pay the value".into(),
                Outcome::CodeRefused => "the engine does not take this code".into(),
                other => other.name().replace('_', " "),
            };
        }
        let Some((selector, rest)) = output.split_first_chunk::<4>() else {
            return "it reverted without saying why".into();
        };
        if *selector == ERROR_SELECTOR
            && let Ok(DynSolValue::String(reason)) = DynSolType::String.abi_decode_params(rest)
        {
            return format!("it reverted: {reason}");
        }
        if *selector == PANIC_SELECTOR
            && let Ok(DynSolValue::Uint(code, _)) = DynSolType::Uint(256).abi_decode_params(rest)
        {
            return format!("it panicked: {}", panic_text(code.try_into().unwrap_or(u64::MAX)));
        }
        if let Some(error) = self.0.errors().find(|error| error.selector().0 == *selector)
            && let Ok(decoded) = error.decode_error(output)
        {
            let values: Vec<_> = decoded.body.iter().map(for_people).collect();
            return format!("it reverted: {}({})", error.name, values.join(", "));
        }
        format!("it reverted with {}", hex::encode(output))
    }
}

/// What the codes of `Panic(uint256)` mean (Solidity documentation, "Panic via assert").
fn panic_text(code: u64) -> String {
    match code {
        0x00 => "something the compiler inserted".into(),
        0x01 => "an assertion failed".into(),
        0x11 => "an arithmetic overflow or underflow".into(),
        0x12 => "a division by zero".into(),
        0x21 => "a value that its enum does not have".into(),
        0x22 => "storage that is wrongly encoded".into(),
        0x31 => "pop of an empty array".into(),
        0x32 => "an index out of bounds".into(),
        0x41 => "too much memory".into(),
        0x51 => "a call of an uninitialised function".into(),
        other => format!("code {other:#x}"),
    }
}

/// One method.
#[derive(Debug)]
pub(super) struct Method(Function);

impl Method {
    /// Selector and arguments.
    pub(super) fn encode(&self, args: &[String]) -> Result<Vec<u8>, Failure> {
        let values = coerce(&self.0.signature(), &self.0.inputs, args)?;
        Ok(self.0.abi_encode_input(&values)?)
    }

    /// What it returned: for programs and for people. `None` if it does not say what it returns, or
    /// returned something else.
    pub(super) fn decode(&self, output: &[u8]) -> Option<(Value, String)> {
        if self.0.outputs.is_empty() {
            return None;
        }
        let values = self.0.abi_decode_output(output).ok()?;
        let text: Vec<_> = values.iter().map(for_people).collect();
        Some((values.iter().map(to_json).collect(), text.join("\n")))
    }
}

fn coerce(what: &str, inputs: &[Param], args: &[String]) -> Result<Vec<DynSolValue>, Failure> {
    if inputs.len() != args.len() {
        return Err(Failure::usage(format!(
            "{what} takes {} arguments, {} were given",
            inputs.len(),
            args.len()
        )));
    }
    let value = |(input, arg): (&Param, &String)| {
        let kind = input.resolve()?;
        kind.coerce_str(arg)
            .map_err(|error| Failure::usage(format!("`{arg}` is no {} for {what}: {error}", input.ty)))
    };
    inputs.iter().zip(args).map(value).collect()
}

/// Numbers as decimal text: they do not fit those of JSON.
fn to_json(value: &DynSolValue) -> Value {
    match value {
        DynSolValue::Bool(value) => json!(value),
        DynSolValue::String(value) => json!(value),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) | DynSolValue::Tuple(values) => {
            values.iter().map(to_json).collect()
        }
        other => json!(for_people(other)),
    }
}

fn for_people(value: &DynSolValue) -> String {
    let list = |values: &[DynSolValue]| values.iter().map(for_people).collect::<Vec<_>>().join(", ");
    match value {
        DynSolValue::Bool(value) => value.to_string(),
        DynSolValue::Int(value, _) => value.to_string(),
        DynSolValue::Uint(value, _) => value.to_string(),
        DynSolValue::FixedBytes(word, len) => format!("0x{}", hex::encode(&word[..*len])),
        // As our own addresses are written, without a checksum in the capitals.
        DynSolValue::Address(address) => format!("0x{}", hex::encode(address)),
        DynSolValue::Function(function) => format!("0x{}", hex::encode(function.as_slice())),
        DynSolValue::Bytes(bytes) => format!("0x{}", hex::encode(bytes)),
        DynSolValue::String(text) => text.clone(),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) => format!("[{}]", list(values)),
        DynSolValue::Tuple(values) => format!("({})", list(values)),
    }
}

#[cfg(test)]
mod tests {
    use ghost_proto::Address;

    use super::*;

    const TOKEN: &str = r#"[
        {"type":"constructor","inputs":[{"name":"supply","type":"uint256"}]},
        {"type":"function","name":"balanceOf","inputs":[{"name":"who","type":"address"}],"outputs":[{"name":"","type":"uint256"}],"stateMutability":"view"},
        {"type":"event","name":"Transfer","anonymous":false,"inputs":[
            {"name":"from","type":"address","indexed":true},{"name":"to","type":"address","indexed":true},
            {"name":"value","type":"uint256","indexed":false}]},
        {"type":"error","name":"TooPoor","inputs":[{"name":"has","type":"uint256"},{"name":"needs","type":"uint256"}]}
    ]"#;

    fn token() -> Abi {
        Abi(serde_json::from_str(TOKEN).unwrap())
    }

    fn word(number: u8) -> Vec<u8> {
        [vec![0; 31], vec![number]].concat()
    }

    #[test]
    fn a_method_is_found_by_signature_and_by_name() {
        let who = format!("0x{}", "11".repeat(20));
        // The selector is the one every ERC-20 has.
        let expected = [hex::decode("70a08231").unwrap(), vec![0; 12], vec![0x11; 20]].concat();
        let by_signature = Abi::default().method("balanceOf(address)(uint256)").unwrap();
        let by_name = token().method("balanceOf").unwrap();
        for method in [by_signature, by_name] {
            assert_eq!(method.encode(std::slice::from_ref(&who)).unwrap(), expected);
            assert_eq!(method.decode(&word(42)), Some((json!(["42"]), "42".into())));
            assert_eq!(method.decode(&[1, 2, 3]), None);
            assert_eq!(method.encode(&[]).unwrap_err().code(), 2);
            assert_eq!(method.encode(&["red".into()]).unwrap_err().code(), 2);
        }
        assert_eq!(Abi::default().method("balanceOf").unwrap_err().code(), 2);
        assert_eq!(token().constructor(&["7".into()]).unwrap(), word(7));
    }

    #[test]
    fn reverts_are_told_in_words() {
        let abi = token();
        let say = |hex: &str, words: &[u8]| {
            let output =
                [hex::decode(hex).unwrap(), words.iter().flat_map(|it| word(*it)).collect()].concat();
            abi.revert(Outcome::Reverted, &output)
        };
        let text =
            [hex::decode("08c379a0").unwrap(), word(32), word(5), b"sorry".to_vec(), vec![0; 27]].concat();
        assert_eq!(abi.revert(Outcome::Reverted, &text), "it reverted: sorry");
        assert_eq!(say("4e487b71", &[0x11]), "it panicked: an arithmetic overflow or underflow");
        let selector = hex::encode(abi.0.errors().next().unwrap().selector());
        assert_eq!(say(&selector, &[1, 9]), "it reverted: TooPoor(1, 9)");
        assert_eq!(say("deadbeef", &[]), "it reverted with deadbeef");
        assert_eq!(abi.revert(Outcome::Reverted, &[]), "it reverted without saying why");
        assert!(abi.revert(Outcome::OutOfGas, &[]).contains("--gas"));
    }

    #[test]
    fn events_are_named_and_their_topics_computed() {
        let abi = token();
        let topic = abi.topic("Transfer").unwrap();
        // The topic every ERC-20 logs.
        assert_eq!(hex::encode(topic), "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef");
        assert_eq!(Abi::default().topic("Transfer(address,address,uint256)").unwrap(), topic);
        assert_eq!(Abi::default().topic("0x01").unwrap()[31], 1);
        assert!(Abi::default().topic("Transfer").is_err());
        let party = |byte: u8| {
            let mut topic = [0; 32];
            topic[12..].fill(byte);
            topic
        };
        let entry = LogEntry {
            address: Address([1; 20]),
            topics: vec![topic, party(2), party(3)],
            data: word(9).into(),
        };
        let (name, values) = abi.event(&entry).unwrap();
        assert_eq!((name.as_str(), &values["value"]), ("Transfer", &json!("9")));
        assert_eq!(values["to"], json!(format!("0x{}", "03".repeat(20))));
        assert_eq!(Abi::default().event(&entry), None);
    }
}
