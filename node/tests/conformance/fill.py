"""Writes cases.json: what Ethereum does, by an implementation that is not ours and not revm.

The cases are those that the public state tests and the EIPs name: every arithmetic, comparison and bit
operation at the edges of its operands (VMTests; EIP-145 for the shifts), the table of EIP-3529 for
storage, and the calls, creations and failures of stCallCodes, stReturnDataTest, stStaticCall, stCreate2
and stRevertTest, each in a few bytes of its own. Results, gas, logs and storage come from py-evm by
the rules of Prague; between those and Osaka's nothing differs that these cases touch.

    pip install py-evm==0.12.1b1 && python fill.py
"""

import json
import pathlib

from eth import constants
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.exceptions import OutOfGas, Revert
from eth.vm.forks.prague import PragueVM
from eth_keys import keys

KEY = keys.PrivateKey(b"\x01" * 32)
MAIN = bytes.fromhex("00000000000000000000000000000000000000000000000000000000000a0001")[-20:]
OTHER = bytes.fromhex("00000000000000000000000000000000000000000000000000000000000b0002")[-20:]
GAS = 10_000_000
CHAIN = MiningChain.configure("Chain", vm_configuration=((0, PragueVM),), chain_id=7)


def push(value, size=None):
    size = size or max(1, (value.bit_length() + 7) // 8)
    return bytes([0x5F + size]) + value.to_bytes(size, "big")


def account(code="", storage=None, balance=0):
    code = bytes.fromhex(code.replace(" ", "")) if isinstance(code, str) else code
    return {"balance": balance, "nonce": 1, "code": code, "storage": storage or {}}


def run(name, pre, data=b"", value=0, gas=GAS, note=None):
    sender = KEY.public_key.to_canonical_address()
    state = {sender: {"balance": 10**30, "nonce": 0, "code": b"", "storage": {}}} | pre
    chain = CHAIN.from_genesis(
        AtomicDB(),
        {"difficulty": 0, "gas_limit": 100_000_000, "base_fee_per_gas": 7, "timestamp": 1,
         "withdrawals_root": constants.BLANK_ROOT_HASH, "blob_gas_used": 0, "excess_blob_gas": 0,
         "parent_beacon_block_root": b"\0" * 32},
        state,
    )
    vm = chain.get_vm()
    tx = vm.create_unsigned_transaction(
        nonce=0, gas_price=100, gas=gas, to=MAIN, value=value, data=data
    ).as_signed_transaction(KEY, chain_id=7)
    receipt, computation = vm.apply_transaction(chain.header, tx)
    error = computation._error
    if error is None:
        outcome = "done"
    elif isinstance(error, Revert):
        outcome = "reverted"
    elif isinstance(error, OutOfGas):
        outcome = "out of gas"
    else:
        outcome = "fault"
    after = {}
    for address, before in pre.items():
        words = {}
        for slot in sorted(set(before["storage"]) | set(range(256))):
            word = vm.state.get_storage(address, slot)
            if word:
                words[hex(slot)] = hex(word)
        after[address.hex()] = {"balance": vm.state.get_balance(address), "nonce": vm.state.get_nonce(address), "storage": words}
    return {
        "name": name,
        **({"note": note} if note else {}),
        "pre": {
            address.hex(): {
                "balance": it["balance"], "code": it["code"].hex(),
                "storage": {hex(slot): hex(word) for slot, word in it["storage"].items()},
            }
            for address, it in pre.items()
        },
        "input": data.hex(), "value": value, "gas_limit": gas,
        "outcome": outcome, "gas_used": receipt.gas_used,
        "output": "" if outcome in ("out of gas", "fault") else computation.output.hex(),
        "logs": [
            {"address": log.address.hex(), "topics": [topic.to_bytes(32, "big").hex() for topic in log.topics], "data": log.data.hex()}
            for log in receipt.logs
        ],
        "post": after,
    }


TOP = 1 << 255
ALL = (1 << 256) - 1
EDGES = [0, 1, 2, 31, 255, 256, TOP - 1, TOP, ALL - 1, ALL]
FEW = [0, 1, 5, TOP, ALL]
UNARY = {"ISZERO": 0x15, "NOT": 0x19}
BINARY = {
    "ADD": 0x01, "MUL": 0x02, "SUB": 0x03, "DIV": 0x04, "SDIV": 0x05, "MOD": 0x06, "SMOD": 0x07, "EXP": 0x0A, "SIGNEXTEND": 0x0B,
    "LT": 0x10, "GT": 0x11, "SLT": 0x12, "SGT": 0x13, "EQ": 0x14, "AND": 0x16, "OR": 0x17, "XOR": 0x18, "BYTE": 0x1A,
    "SHL": 0x1B, "SHR": 0x1C, "SAR": 0x1D,
}
TERNARY = {"ADDMOD": 0x08, "MULMOD": 0x09}


def arithmetic():
    def case(name, opcode, operands):
        code = b"".join(
            b"".join(push(value, 32) for value in reversed(each)) + bytes([opcode]) + push(slot) + b"\x55"
            for slot, each in enumerate(operands)
        )
        return run(f"arithmetic/{name}", {MAIN: account(code)})

    for name, opcode in UNARY.items():
        yield case(name, opcode, [(a,) for a in EDGES])
    for name, opcode in BINARY.items():
        yield case(name, opcode, [(a, b) for a in EDGES for b in EDGES])
    for name, opcode in TERNARY.items():
        yield case(name, opcode, [(a, b, c) for a in FEW for b in FEW for c in FEW])


# EIP-3529, "With reduced refunds": code, gas without the access of a cold slot, refund, original value.
SSTORES = [
    ("60006000556000600055", 212, 0, 0), ("60006000556001600055", 20112, 0, 0), ("60016000556000600055", 20112, 19900, 0),
    ("60016000556002600055", 20112, 0, 0), ("60016000556001600055", 20112, 0, 0), ("60006000556000600055", 3012, 4800, 1),
    ("60006000556001600055", 3012, 2800, 1), ("60006000556002600055", 3012, 0, 1), ("60026000556000600055", 3012, 4800, 1),
    ("60026000556003600055", 3012, 0, 1), ("60026000556001600055", 3012, 2800, 1), ("60026000556002600055", 3012, 0, 1),
    ("60016000556000600055", 3012, 4800, 1), ("60016000556002600055", 3012, 0, 1), ("60016000556001600055", 212, 0, 1),
    ("600160005560006000556001600055", 40118, 19900, 0), ("600060005560016000556000600055", 5918, 7600, 1),
]


def storage():
    for index, (code, gas, refund, original) in enumerate(SSTORES):
        case = run(f"storage/eip3529/{index}", {MAIN: account(code, {0: original} if original else {})})
        used = 21000 + 2100 + gas
        expected = used - min(refund, used // 5)
        assert case["gas_used"] == expected, (code, original, case["gas_used"], expected)
        yield case
    yield run("storage/cold and warm reads", {MAIN: account("600054600054600154 01 01 60025500", {0: 3, 1: 4})})
    yield run("storage/below the stipend", {MAIN: account("6001600055")}, gas=21006 + 2300)
    yield run("storage/out of gas", {MAIN: account("6001600055")}, gas=30_000)
    yield run("storage/transient", {MAIN: account("602a60015d 60015c 600055 60025c 600155")})
    yield run("storage/undone by a revert", {MAIN: account("600160005561dead5f526002601efd")})


def call(opcode, address=OTHER, value=None, size=32, gas=None):
    """Calls and leaves 1 or 0 on the stack; what comes back lands in memory at 0."""
    out = push(size) + push(0) + push(0) + push(0)
    if value is not None:
        out += push(value)
    return out + push(int.from_bytes(address, "big"), 20) + (push(gas) if gas else b"\x5a") + bytes([opcode])


# Stores what was returned and whether the call did.
KEEP = bytes.fromhex("60005560005160015500")


def calls():
    answers = account("602a60005260206000f3")
    writes = account("600760055560016000526020 6000f3".replace(" ", ""))
    reverts = account("61dead5f526002601efd")
    for name, opcode, value in [("CALL", 0xF1, 0), ("CALLCODE", 0xF2, 0), ("DELEGATECALL", 0xF4, None), ("STATICCALL", 0xFA, None)]:
        code = call(opcode, value=value) + KEEP
        yield run(f"call/{name} that answers", {MAIN: account(code), OTHER: answers})
        yield run(f"call/{name} that writes", {MAIN: account(code), OTHER: writes})
        yield run(f"call/{name} that reverts", {MAIN: account(code), OTHER: reverts})
        yield run(f"call/{name} that faults", {MAIN: account(code), OTHER: account("fe")})
        yield run(f"call/{name} to nobody", {MAIN: account(code)})
        little = call(opcode, value=value, gas=100) + KEEP
        yield run(f"call/{name} with too little gas", {MAIN: account(little), OTHER: writes})
    paying = call(0xF1, value=5) + KEEP
    yield run("call/pays a contract", {MAIN: account(paying, balance=9), OTHER: answers})
    yield run("call/pays nobody yet", {MAIN: account(paying, balance=9)})
    yield run("call/pays more than it has", {MAIN: account(paying, balance=4), OTHER: answers})
    yield run("call/value of the transaction", {MAIN: account("34600055")}, value=11)
    yield run("call/input", {MAIN: account("366000556000356001556020 35600255".replace(" ", ""))}, data=bytes(range(1, 41)))
    yield run("call/much input pays the floor", {MAIN: account("00")}, data=b"\xff" * 2000)
    yield run("call/returned data beyond its end", {MAIN: account(call(0xF1, value=0) + bytes.fromhex("50602160006000 3e".replace(" ", ""))), OTHER: answers})
    yield run("call/endless recursion", {MAIN: account("5f5f5f5f5f305af1600101600055")}, gas=1_000_000)
    for number, name in [(2, "SHA-256"), (3, "RIPEMD-160"), (4, "identity")]:
        code = push(0x6768, 2) + bytes.fromhex("600052") + push(32) + push(32) + push(32) + push(0) + push(number) + b"\x5a\xfa" + bytes.fromhex("600055602051600155")
        yield run(f"call/precompile {name}", {MAIN: account(code)})
    init = bytes.fromhex("602a60005260206000f3")
    store = push(int.from_bytes(init, "big"), len(init)) + b"\x5f\x52"
    create = store + push(len(init)) + push(32 - len(init)) + b"\x5f\xf0"
    yield run("create/CREATE", {MAIN: account(create + bytes.fromhex("803b6001553f6000 55".replace(" ", "")))})
    create2 = store + push(9) + push(len(init)) + push(32 - len(init)) + b"\x5f\xf5"
    yield run("create/CREATE2", {MAIN: account(create2 + bytes.fromhex("600055"))})
    yield run("create/CREATE2 twice", {MAIN: account(create2 + b"\x50" + create2 + bytes.fromhex("600055"))})
    yield run("create/in a static call", {MAIN: account(call(0xFA) + KEEP), OTHER: account(create)})
    yield run("log/four topics", {MAIN: account("602a5f5260046003600260016020 5fa4".replace(" ", ""))})
    yield run("log/in a reverted call", {MAIN: account(call(0xF1, value=0) + KEEP), OTHER: account("5f5fa05f5ffd")})
    yield run("flow/jump to no destination", {MAIN: account("600356")}, gas=100_000)
    yield run("flow/stack underflow", {MAIN: account("01")}, gas=100_000)
    yield run("flow/invalid", {MAIN: account("fe")}, gas=100_000)
    yield run("flow/out of gas", {MAIN: account("5b600056")}, gas=100_000)
    yield run("memory/MCOPY and MSIZE", {MAIN: account("602a5f52602060006101005e6101005160005559600155")})
    yield run("memory/expansion", {MAIN: account("60016201000052")})
    yield run("hash/KECCAK256", {MAIN: account("602a5f5260205f20600055 5f5f20600155")})


if __name__ == "__main__":
    cases = [*arithmetic(), *storage(), *calls()]
    text = ",\n".join(json.dumps(case) for case in cases)
    pathlib.Path(__file__).with_name("cases.json").write_text(f"[\n{text}\n]\n")
    print(len(cases), "cases")
