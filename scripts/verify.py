#!/usr/bin/env python3
"""Verifies an export of an Exonode chain, its checkpoints and its receipts.

    verify.py EXPORT                                    a whole chain, binary or JSON lines
    verify.py EXPORT --checkpoint NOTE --policy POLICY  and that a signed checkpoint is of this chain
    verify.py --receipt RECEIPT --policy POLICY         that an entry is in a log, without the log

Written from docs/FORMAT.md alone; "section" below means a section of that page. It shares no code
with Exonode, and needs nothing but Python 3.9. Exit status: 0 all is well, 1 something is wrong (the
message names the entry), 2 the command line is wrong or a file can't be read.

What this does not check:
  - that verdicts follow from the policy: section 9 has no rules of evaluation (`exonode verify` has);
  - ML-DSA-44 signatures: they are passed over, and count for nothing;
  - client signatures and proofs of possession, the rest of a recovery, the genesis document: they take the
    state that the entries amount to (section 9);
  - that the policy file is this cluster's: it is trusted as it is;
  - the readable view in JSON lines: it is for reading, and never shown here;
  - without a checkpoint: that the chain was not cut at its end, or made up as a whole.
Ed25519 here is slow and not constant in time: good enough for public data, not for secrets.
"""

import argparse
import base64
import calendar
import contextlib
import functools
import hashlib
import json
import re
import struct
import sys
import time


class Bad(Exception):
    """What was checked is wrong; entry is the sequence of the bad entry, where there is one."""

    def __init__(self, message, entry=None):
        super().__init__(message)
        self.entry = entry

    def __str__(self):
        where = "" if self.entry is None else "entry %d: " % self.entry
        return where + super().__str__()


def need(condition, message, *args):
    if not condition:
        raise Bad(message % args if args else message)


def base64_bytes(text):
    """Strict base64: padded, and the unused bits of the last character are zero."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Bad("not base64")
    need(base64.b64encode(data).decode() == text, "not base64 as it is written")
    return data


def decimal(text):
    need(re.fullmatch("0|[1-9][0-9]{0,19}", text), "%r is not a number", text)
    return int(text)


# --- BLAKE3: the hash of headers and envelopes (section 4), in its derive-key mode alone.
# Input is cut into chunks of 1,024 bytes, each a chain of 64-byte blocks; chunks are leaves of a binary tree.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),  # the columns of the 4 x 4 state,
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))  # and its diagonals
CHUNK_START, CHUNK_END, PARENT, ROOT, DERIVE_CONTEXT, DERIVE_MATERIAL = 1, 2, 4, 8, 32, 64
MASK = 0xFFFFFFFF


def compress(chaining, words, counter, length, flags):
    """Eight words from eight chaining words and sixteen of the block."""
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(QUARTERS):
            v[a] = (v[a] + v[b] + words[2 * i]) & MASK
            x = v[d] ^ v[a]
            v[d] = (x >> 16 | x << 16) & MASK
            v[c] = (v[c] + v[d]) & MASK
            x = v[b] ^ v[c]
            v[b] = (x >> 12 | x << 20) & MASK
            v[a] = (v[a] + v[b] + words[2 * i + 1]) & MASK
            x = v[d] ^ v[a]
            v[d] = (x >> 8 | x << 24) & MASK
            v[c] = (v[c] + v[d]) & MASK
            x = v[b] ^ v[c]
            v[b] = (x >> 7 | x << 25) & MASK
        words = [words[p] for p in PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(key, mode, data, first_chunk=0, root=ROOT):
    """The eight words of the subtree over data, whose first chunk has this number."""
    if len(data) > 1024:
        chunks = (len(data) + 1023) // 1024
        left = 1 << (chunks - 1).bit_length() - 1  # the largest power of two below chunks
        words = (blake3(key, mode, data[: left * 1024], first_chunk, 0)
                 + blake3(key, mode, data[left * 1024:], first_chunk + left, 0))
        return compress(key, words, 0, 64, mode | PARENT | root)
    chaining, flags = key, mode | CHUNK_START
    last = max(0, (len(data) - 1) // 64 * 64)
    for at in range(0, last + 1, 64):
        block = data[at: at + 64]
        if at == last:
            flags |= CHUNK_END | root
        chaining = compress(chaining, struct.unpack("<16I", block.ljust(64, b"\0")), first_chunk, len(block), flags)
        flags = mode
    return chaining


@functools.lru_cache(maxsize=None)
def context_key(context):
    return tuple(blake3(IV, DERIVE_CONTEXT, context.encode()))


def derive_key(context, data):
    return struct.pack("<8I", *blake3(context_key(context), DERIVE_MATERIAL, data))


def header_hash(header):
    return derive_key("exonode 2026 v1 chain entry header", header)


def envelope_hash(envelope):
    return derive_key("exonode 2026 v1 chain entry envelope", envelope)


# --- The tree (section 5) and inclusion proofs (section 6): RFC 6962 with SHA-256.

def leaf_hash(header):
    return hashlib.sha256(b"\0" + header).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def tree_root(leaves):
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_root(leaves[:left]), tree_root(leaves[left:]))


def root_of_proof(leaf, index, size, proof):
    """The root that an inclusion proof leads to: RFC 9162, section 2.1.3.2."""
    need(index < size, "entry %d is not in a tree of %d", index, size)
    at, last, root = index, size - 1, leaf
    for sibling in proof:
        need(last > 0, "the proof has a hash too many")
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    need(last == 0, "the proof has a hash too few")
    return root


# --- CBOR (section 1): exactly one encoding of each value; every other is refused.
# Values become int, bytes, str, list, dict and bool.

def cbor(data):
    value, end = cbor_item(data, 0, 8)
    need(end == len(data), "CBOR: %d bytes follow the value", len(data) - end)
    return value


def cbor_item(data, at, depth):
    need(at < len(data), "CBOR: cut short")
    need(depth > 0, "CBOR: nested too deep")
    major, n = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        need(n in (20, 21), "CBOR: a simple value other than false and true")
        return n == 21, at
    if n >= 24:
        need(n <= 27, "CBOR: an indefinite length")
        size, least = ((1, 24), (2, 1 << 8), (4, 1 << 16), (8, 1 << 32))[n - 24]
        need(at + size <= len(data), "CBOR: cut short")
        n = int.from_bytes(data[at: at + size], "big")
        at += size
        need(n >= least, "CBOR: a number that is not in its shortest form")
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if major in (2, 3):
        need(at + n <= len(data), "CBOR: cut short")
        value = data[at: at + n]
        if major == 3:
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise Bad("CBOR: text that is not UTF-8")
        return value, at + n
    if major == 4:
        items = []
        for _ in range(n):
            item, at = cbor_item(data, at, depth - 1)
            items.append(item)
        return items, at
    need(major == 5, "CBOR: a tag")
    pairs, before = {}, b""
    for _ in range(n):
        start = at
        key, at = cbor_item(data, at, depth - 1)
        need(type(key) in (int, str), "CBOR: a key that is neither number nor text")
        need(data[start:at] > before, "CBOR: keys out of order, or one twice")
        before = data[start:at]
        pairs[key], at = cbor_item(data, at, depth - 1)
    return pairs, at


# --- The fields of headers and envelopes (sections 2 and 3). A table has, for each key, its name, whether it is
# always there, and a function that says whether a value is allowed.

def is_map(what, value, table):
    need(type(value) is dict, "%s: not a map", what)
    for key in value:
        need(key in table, "%s: key %r is unknown", what, key)
    for key, (name, always, allowed) in table.items():
        if key in value:
            need(always or value[key], "%s: %s is there, and empty", what, name)
            need(allowed(value[key]), "%s: %s is not what it may be", what, name)
        else:
            need(not always, "%s: %s is not there", what, name)
    return True


def uint(low=0, high=2**64 - 1):
    return lambda v: type(v) is int and low <= v <= high


def blob(low, high):
    return lambda v: type(v) is bytes and low <= len(v) <= high


def text(low, high, pattern="[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*"):  # printable, unless told otherwise
    return lambda v: type(v) is str and low <= len(v.encode()) <= high and re.fullmatch(pattern, v) is not None


def several(allowed, ascending=lambda v: v):
    """1 to 64 values, strictly ascending by what the function makes of each; None: in any order."""
    def check(v):
        if type(v) is not list or not 1 <= len(v) <= 64 or not all(allowed(x) for x in v):
            return False
        keys = [ascending(x) for x in v] if ascending else []
        return all(a < b for a, b in zip(keys, keys[1:]))
    return check


def effect(v):
    return type(v) is list and len(v) == 5 and all(uint(0, 10000)(x) for x in v)


def extensions(v):
    if type(v) is not dict or not 1 <= len(v) <= 64:
        return False
    size = 0
    for key, value in v.items():
        if not text(1, 20, "[a-z0-9]*")(key):
            return False
        if not (type(value) is bool or uint(-2**31, 2**31 - 1)(value) or text(0, 4096)(value)):
            return False
        size += len(key) + (len(value.encode()) if type(value) is str else 0)
    return size <= 16384


DOTTED_NAME = text(1, 128, r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
WORKSPACE = text(1, 64, "[a-z0-9][a-z0-9._-]*")
CONTENT_TYPE = text(3, 256, "[\x20-.0-\x7e]+/[\x20-\x7e]+")
TRACEPARENT = text(55, 55, "(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

REFERENCE = {
    0: ("hash", True, blob(32, 32)), 1: ("size", True, uint()),
    2: ("content type", False, CONTENT_TYPE), 3: ("data schema", False, text(1, 1024)),
}
RULE = {
    0: ("id", True, text(1, 128)), 1: ("severity", True, text(1, 8, "advisory|warning|blocking|critical")),
    2: ("failed", False, lambda v: v is True),
}
COUNT = {0: ("name", True, text(1, 128)), 1: ("value", True, uint())}
VERDICT = {
    0: ("gate", True, DOTTED_NAME), 1: ("decision", True, uint(1, 5)), 2: ("revision", True, uint()),
    3: ("policy hash", True, blob(32, 32)), 4: ("declared", False, effect), 5: ("effective", True, effect),
    6: ("rules", False, several(lambda v: is_map("rule", v, RULE), None)),
    7: ("counts", False, several(lambda v: is_map("count", v, COUNT), lambda v: v[0].encode())),
    8: ("profile", False, text(1, 128)), 9: ("request", False, uint()), 10: ("permit", False, uint()),
    11: ("reasons", False, several(text(1, 128), lambda v: v.encode())), 12: ("emergency", False, uint()),
}
HEADER = {
    0: ("version", True, uint(1, 1)), 1: ("chain id", True, blob(16, 16)), 2: ("epoch", True, uint()),
    3: ("sequence", True, uint()), 4: ("previous", True, blob(32, 32)), 5: ("time", True, uint(1, 2**63 - 1)),
    6: ("workspace", True, WORKSPACE), 7: ("source", True, text(1, 512)), 8: ("id", True, text(1, 256)),
    9: ("kind", True, DOTTED_NAME), 10: ("schema version", False, uint()), 11: ("subject", False, text(1, 1024)),
    12: ("principal", True, text(1, 256)), 13: ("credential", False, text(1, 32)),
    14: ("on behalf of", False, text(1, 256)),
    15: ("envelope", True, lambda v: is_map("envelope reference", v, REFERENCE)),
    16: ("verdict", False, lambda v: is_map("verdict", v, VERDICT)), 17: ("causes", False, several(uint())),
    18: ("priority", False, uint(1, 1)), 19: ("client time", False, uint(0, 2**63 - 1)),
    20: ("traceparent", False, TRACEPARENT), 21: ("extensions", False, extensions),
    22: ("client key id", False, text(1, 128)), 23: ("sealing node", False, text(1, 128)),
    24: ("attestation", False, blob(1, 4096)), 25: ("raft index", False, uint()),
}
ENVELOPE = {
    0: ("payload", True, blob(0, 2**64)), 1: ("salt", True, blob(32, 32)), 2: ("client signature", False, blob(64, 64)),
}


def decode_header(data):
    """A header by the names of its fields; those that are absent are None."""
    need(len(data) <= 60000, "header: %d bytes, at most 60,000", len(data))
    value = cbor(data)
    is_map("header", value, HEADER)
    header = {name: value.get(key) for key, (name, _, _) in HEADER.items()}
    need(header["time"] <= 2**62 + header["sequence"], "header: time is too late for its sequence")
    return header


def decode_envelope(data):
    """The payload of an envelope."""
    value = cbor(data)
    is_map("envelope", value, ENVELOPE)
    return value[0]


# --- Reading an export (section 7). Both forms become an Export.

class Export:
    def __init__(self, chain, start, size):
        need(start == 0, "the export begins with entry %d: verify one that begins with entry 0", start)
        self.chain, self.size = chain, size
        self.records = []    # (sequence, header, envelope or None, beside or None)
        self.trailer = None  # (size, hash, time, root)


def read_export(data):
    magic = b"exonode-export/1\n"
    return read_binary(data, len(magic)) if data.startswith(magic) else read_lines(data)


INFO = {0: ("chain id", True, blob(16, 16)), 1: ("from", True, uint()), 2: ("to", True, uint()),
        3: ("start", False, lambda v: type(v) is dict)}
RECORD = {0: ("sequence", True, uint()), 1: ("header", True, blob(0, 2**64)),
          2: ("envelope", False, blob(1, 2**64)), 3: ("beside", False, blob(1, 2**64))}
TRAILER = {0: ("size", True, uint()), 1: ("hash", True, blob(32, 32)), 2: ("time", True, uint()),
           3: ("root", True, blob(32, 32))}


def read_binary(data, at):
    def frame(what, table):
        nonlocal at
        size = int.from_bytes(data[at: at + 4], "big")
        need(len(data) - at >= 4 and size <= 67108864 and at + 4 + size <= len(data), "%s: the frame is cut off", what)
        at += 4 + size
        value = cbor(data[at - size: at])
        is_map(what, value, table)
        return value

    info = frame("info", INFO)
    export = Export(info[0], info[1], info[2])
    for sequence in range(export.size):
        with entry(sequence):
            r = frame("record", RECORD)
        export.records.append((r[0], r[1], r.get(2), r.get(3)))
    t = frame("trailer", TRAILER)
    need(at == len(data), "%d bytes follow the trailer", len(data) - at)
    export.trailer = (t[0], t[1], t[2], t[3])
    return export


NUMBER, BASE64, HASH = "(0|[1-9][0-9]{0,19})", "([A-Za-z0-9+/]*=*)", "([0-9a-f]{64})"
INFO_LINE = (r'\{"format":"exonode-export/1","chain":"([0-9a-f]{32})","from":%s,"to":%s(?:,"start":\{.*\})?\}'
             % (NUMBER, NUMBER))
ENTRY_LINE = (r'\{"sequence":%s,"header":"%s"(?:,"envelope":"%s")?(?:,"beside":"%s")?(?:,"entry":(\{.*\}))?\}'
              % (NUMBER, BASE64, BASE64, BASE64))
TRAILER_LINE = r'\{"size":%s,"hash":"%s"(?:,"time":"([0-9TZ:.-]{30})")?,"root":"%s"\}' % (NUMBER, HASH, HASH)


def read_lines(data):
    lines = data.split(b"\n")

    def line(i, what, pattern):
        need(i < len(lines) - 1, "%s: the line is cut short, or not there", what)
        try:
            match = re.fullmatch(pattern, lines[i].decode())
        except UnicodeDecodeError:
            raise Bad("%s: the line is not UTF-8" % what)
        need(match, "%s: the line is not as it is written", what)
        return match.groups()

    chain, start, size = line(0, "first line", INFO_LINE)
    export = Export(bytes.fromhex(chain), int(start), int(size))
    for sequence in range(export.size):
        with entry(sequence):
            number, header, envelope, beside, view = line(sequence + 1, "entry's line", ENTRY_LINE)
            if view:
                json_object(view)  # so that nothing stands behind it; what it says is not checked
            parts = [None if part is None else base64_bytes(part) for part in (header, envelope, beside)]
        export.records.append((int(number), *parts))
    size, last, moment, root = line(export.size + 1, "last line", TRAILER_LINE)
    need(lines[export.size + 2:] == [b""], "something follows the last line")
    need((moment is None) == (export.size == 0), "last line: only an empty chain has no time")
    export.trailer = (int(size), bytes.fromhex(last), nanoseconds(moment) if moment else 0, bytes.fromhex(root))
    return export


def nanoseconds(moment):
    """Unix nanoseconds of 2026-01-02T03:04:05.000000006Z."""
    try:
        seconds = calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))
        nanos = re.fullmatch(r"\.([0-9]{9})Z", moment[19:]).group(1)
    except (ValueError, AttributeError):
        raise Bad("time %s is not as it is written" % moment)
    return seconds * 10**9 + int(nanos)


# --- Payloads of the few kinds that verification looks into are JSON objects. Members are read as they are written.

def json_object(written):
    def refuse(constant):
        raise ValueError(constant)  # NaN and Infinity, which JSON does not have
    try:
        value = json.loads(written, parse_int=str, parse_constant=refuse)
    except (ValueError, RecursionError) as err:
        raise Bad("not JSON: %s" % err)
    need(type(value) is dict, "not a JSON object")
    return value


def member(payload, name):
    """The written form of the member of this name, the last one where there are several."""
    written = payload.decode("utf-8", "replace")
    json_object(written)  # it is one: now walk through its members
    space, decoder, found = re.compile("[ \t\n\r]*"), json.JSONDecoder(parse_int=str), None
    at = written.index("{")
    while True:
        at = space.match(written, at + 1).end()  # past "{" or ","
        if written[at] == "}":
            break
        key, at = decoder.raw_decode(written, at)
        start = space.match(written, space.match(written, at).end() + 1).end()  # past ":"
        at = decoder.raw_decode(written, start)[1]
        if key == name:
            found = written[start:at]
        at = space.match(written, at).end()
        if written[at] == "}":
            break
    need(found is not None, "payload: no member %s", name)
    return found


def number_member(payload, name):
    written = member(payload, name)
    need(re.fullmatch("[0-9]+", written), "payload: %s is not a number in decimal digits", name)
    return decimal(written)


def hash_member(payload, name):
    written = member(payload, name)
    need(re.fullmatch('"[0-9a-f]{64}"', written), "payload: %s is not 64 lower-case hex digits", name)
    return bytes.fromhex(written[1:-1])


# --- Verification of a chain (section 8), step by step by its numbers.

@contextlib.contextmanager
def entry(sequence):
    """What goes wrong inside is the fault of this entry, unless another is blamed."""
    try:
        yield
    except Bad as bad:
        if bad.entry is None:
            bad.entry = sequence
        raise


class Chain:
    """What has been verified so far, and at the end all of it."""

    def __init__(self):
        self.head, self.time, self.epoch = bytes(32), 0, None
        self.headers, self.leaves = [], []
        self.redactable = []  # of each entry: whether it may be redacted
        self.missing, self.redacted = set(), 0


def verify_chain(export):
    chain = Chain()
    for sequence, record in enumerate(export.records):
        with entry(sequence):
            verify_entry(chain, export, sequence, *record)
    if chain.missing:
        raise Bad("its envelope is missing, and no redaction names it", min(chain.missing))  # 14
    with entry(export.size - 1 if export.size else None):
        expected = (export.size, chain.head, chain.time, tree_root(chain.leaves))  # 15
        for name, have, want in zip(("size", "hash", "time", "root"), expected, export.trailer):
            need(have == want, "the trailer's %s is not that of the chain", name)
    return chain


def verify_entry(chain, export, sequence, number, encoded, envelope, beside):
    need(number == sequence, "its record has sequence %d", number)  # 1
    header = decode_header(encoded)  # 2
    digest = header_hash(encoded)
    if header["previous"] != chain.head:  # 3
        need(sequence > 0, "entry 0 names a predecessor")
        if next_names(export, sequence, digest):
            raise Bad("it is not the entry whose hash the next one names", sequence - 1)
        raise Bad("it does not name the hash of the entry before")
    need(header["chain id"] == export.chain, "it is of another chain")  # 4
    need(header["sequence"] == sequence, "its header has sequence %d", header["sequence"])
    system = header["workspace"] == "system"
    kind = header["kind"] if system else None  # only of system do kinds have a meaning here
    need((kind == "chain.genesis") == (sequence == 0), "entry 0, and no other, is the genesis")  # 5
    if kind == "chain.recover":  # 6
        need(header["epoch"] > chain.epoch, "a recovery begins a new epoch")
    else:
        need(chain.epoch in (None, header["epoch"]), "epoch %d follows %s", header["epoch"], chain.epoch)
    need(header["time"] > chain.time, "it is not later than the entry before")  # 7
    payload = None
    if envelope is not None:  # 8
        payload = checked_envelope(envelope, header["envelope"][0])
        need(len(payload) == header["envelope"][1], "its payload has another size than the header names")
    else:  # 9
        need(not system, "its envelope is missing, and workspace system keeps all of them")
        chain.missing.add(sequence)
    if kind == "governance.escalate" and beside is None:  # 10
        chain.missing.add(sequence)
    if beside is not None:
        need(kind == "governance.escalate", "only an escalation has an envelope beside it")
        checked_envelope(beside, hash_member(payload, "envelope_hash"))
    chain.redactable.append(not system or kind == "governance.escalate")
    if kind == "chain.redact":  # 11
        target = number_member(payload, "target_seq")
        need(target < sequence, "it redacts entry %d, which is not before it", target)
        need(chain.redactable[target], "it redacts entry %d of workspace system", target)
        chain.redacted += target in chain.missing
        chain.missing.discard(target)
    if kind == "chain.recover":  # 12
        need(number_member(payload, "epoch") == header["epoch"] and number_member(payload, "last_seq") == sequence - 1
             and hash_member(payload, "head_hash") == chain.head, "its payload tells of another recovery than it is")
    chain.headers.append(encoded)  # 13
    chain.leaves.append(leaf_hash(encoded))
    chain.head, chain.time, chain.epoch = digest, header["time"], header["epoch"]


def checked_envelope(envelope, digest):
    need(envelope_hash(envelope) == digest, "an envelope has another hash than the entry names")
    return decode_envelope(envelope)


def next_names(export, sequence, digest):
    """Whether what follows an entry names its hash: then a broken link is its predecessor's fault."""
    if sequence + 1 == export.size:
        return export.trailer[1] == digest
    try:
        return decode_header(export.records[sequence + 1][1])["previous"] == digest
    except Bad:
        return False


# --- Ed25519 (RFC 8032): verification alone. A point is (x, y, z, t) with x/z and y/z on the curve, and t = xy/z.

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * D * p[3] * q[3], 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(n, point):
    result = (0, 1, 1, 0)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def decompress(data):
    """The point of 32 bytes: y, and in the last bit whether x is odd."""
    y = int.from_bytes(data, "little")
    odd, y = y >> 255, y & (1 << 255) - 1
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or x == 0 and odd:
        return None
    if x & 1 != odd:
        x = P - x
    return x, y, 1, x * y % P


def compressed(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = decompress((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def ed25519_verify(public, message, signature):
    """Whether sB - kA is the R that the signature has in its first half."""
    a, s = decompress(public), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or s >= ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    minus_a = (P - a[0], a[1], 1, P - a[3])
    return compressed(add(multiply(s, BASE), multiply(k, minus_a))) == signature[:32]


# --- Checkpoints and policies (section 11).

LOG, COSIGNER, ML_DSA = 1, 4, 6


class Key:
    def __init__(self, vkey):
        parts = vkey.split("+", 2)
        need(len(parts) == 3 and key_name(parts[0]) and re.fullmatch("[0-9a-fA-F]{8}", parts[1]),
             "%r is no vkey", vkey)
        data = base64_bytes(parts[2])
        need(len(data) > 1, "%r is no vkey", vkey)
        self.name, self.id, self.type, self.public = parts[0], bytes.fromhex(parts[1]), data[0], data[1:]
        length = {LOG: 32, COSIGNER: 32, ML_DSA: 1312}.get(self.type)
        need(len(self.public) == length, "%r: no key of a known type", vkey)
        digest = hashlib.sha256(self.name.encode("utf-8", "surrogateescape") + b"\n" + data).digest()
        need(digest[:4] == self.id, "%r: the key has another id", vkey)


def key_name(name):
    return 1 <= len(name.encode("utf-8", "surrogateescape")) <= 255 and not re.search(r"[\s+]", name)


class Note:
    def __init__(self, data):
        need(len(data) <= 262144, "a note of %d bytes, at most 262,144", len(data))
        try:
            written = data.decode()
        except UnicodeDecodeError:
            raise Bad("the note is not UTF-8")
        need(not re.search("[\x00-\x09\x0b-\x1f]", written), "the note has control characters")
        body, separator, signatures = written.partition("\n\n")
        need(separator and signatures.endswith("\n"), "the note has no signatures, or is cut short")
        self.text = body + "\n"
        lines = body.split("\n")
        need(len(lines) >= 3 and 1 <= len(lines[0].encode()) <= 255, "the note's text is not a checkpoint")
        self.origin, self.size, self.root = lines[0], decimal(lines[1]), base64_bytes(lines[2])
        need(self.size < 2**63 and len(self.root) == 32, "the note's text is not a checkpoint")
        need(self.size > 0 or self.root == tree_root([]), "the empty tree has another root")
        self.signatures = []  # (name, key id, signature)
        for line in signatures[:-1].split("\n"):
            parts = line.split(" ")
            need(len(parts) == 3 and parts[0] == "\u2014" and key_name(parts[1]), "%r is not a signature's line", line)
            signature = base64_bytes(parts[2])
            need(len(signature) > 4, "%r is not a signature's line", line)
            self.signatures.append((parts[1], signature[:4], signature[4:]))

    def signed_by(self, key):
        """Whether the key signed it. One bad signature of a known key is too many."""
        signed = False
        for name, key_id, signature in self.signatures:
            if (name, key_id) != (key.name, key.id):
                continue
            if key.type == ML_DSA:
                print("passed over: an ML-DSA-44 signature of %s, which this tool can't check" % name)
                continue
            message = self.text.encode()
            if key.type == COSIGNER:
                moment, signature = int.from_bytes(signature[:8], "big"), signature[8:]
                need(moment < 2**63, "the cosignature of %s has a time of 2^63 or more", name)
                message = b"cosignature/v1\ntime %d\n" % moment + message
            need(ed25519_verify(key.public, message, signature), "the signature of %s is not genuine", name)
            signed = True
        return signed


class Policy:
    """Whose signatures are enough."""

    def __init__(self, data):
        self.logs, self.witnesses, self.groups, self.quorum = [], {}, {}, None
        members = set()
        need(data.endswith(b"\n"), "policy: the last line has no end")
        for line in data.decode("utf-8", "surrogateescape").split("\n"):
            need(not re.search("[\x00-\x08\x0a-\x1f\x7f]", line), "policy: control characters")
            items = [item for item in re.split("[ \t]+", line) if item]
            if not items or items[0].startswith("#"):
                continue
            what, count = items[0], len(items)
            if what == "log" and count in (2, 3):
                key = Key(items[1])
                need(key.type != COSIGNER and all(key.public != k.public for k in self.logs), "policy: %r", line)
                self.logs.append(key)
            elif what == "witness" and count in (3, 4):
                key = Key(items[2])
                need(key.type != LOG and all(key.public != k.public for k in self.witnesses.values()),
                     "policy: %r", line)
                self.define(self.witnesses, items[1], key)
            elif what == "group" and count >= 4:
                for name in items[3:]:
                    need(self.defined(name) and name not in members, "policy: %s can't be a member (again)", name)
                    members.add(name)
                threshold = {"any": 1, "all": count - 3}.get(items[2]) or decimal(items[2])
                need(1 <= threshold <= count - 3, "policy: group %s can't have %s members", items[1], items[2])
                self.define(self.groups, items[1], (threshold, items[3:]))
            elif what == "quorum" and count == 2:
                need(self.quorum is None and (items[1] == "none" or self.defined(items[1])), "policy: %r", line)
                self.quorum = items[1]
            else:
                raise Bad("policy: %r is not a line of one" % line)
        need(self.quorum is not None, "policy: no quorum")

    def defined(self, name):
        return name in self.witnesses or name in self.groups

    def define(self, where, name, value):
        need(name != "none" and not self.defined(name), "policy: the name %s is taken", name)
        where[name] = value

    def reached(self, name, cosigned):
        if name in self.groups:
            threshold, names = self.groups[name]
            return sum(self.reached(n, cosigned) for n in names) >= threshold
        return name in cosigned

    def judge(self, note):
        """Refuses a note that lacks signatures; says who signed."""
        by_log = [note.signed_by(key) for key in self.logs if key.name == note.origin]
        cosigned = [name for name, key in self.witnesses.items() if note.signed_by(key)]
        who = ", ".join(cosigned) or "nobody"
        need(any(by_log), "the checkpoint of %s has no signature that can be checked of a log of the policy", note.origin)
        need(self.quorum == "none" or self.reached(self.quorum, cosigned),
             "the checkpoint lacks cosignatures: the policy's quorum is not reached by those of %s", who)
        print("checkpoint of %s, %d entries, root %s: signed by the log, cosigned by %s"
              % (note.origin, note.size, note.root.hex(), who))


def verify_checkpoint(note, policy, chain):
    policy.judge(note)
    need(note.size <= len(chain.leaves), "the checkpoint covers %d entries, the export has %d: make a new export",
         note.size, len(chain.leaves))
    need(tree_root(chain.leaves[: note.size]) == note.root,
         "the checkpoint's root is not that of the export's first %d entries", note.size)
    print("checkpoint: its root is that of the export's first %d entries" % note.size)


# --- Receipts (section 12).

def verify_receipt(data, policy, chain):
    body, separator, note = data.partition(b"\n\n")
    need(separator, "the receipt has no checkpoint")
    try:
        lines = body.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Bad("the receipt's head is not ASCII")
    need(len(data) <= 4 << 20 and lines.pop(0) == "c2sp.org/tlog-proof@v1", "this is not a receipt")
    extra = {}
    if lines and lines[0].startswith("extra "):
        extra = cbor(base64_bytes(lines.pop(0)[6:]))
        is_map("extra", extra, {0: ("header", True, blob(0, 60000)), 1: ("envelope", False, blob(1, 2**64))})
    need(lines and lines[0].startswith("index "), "the receipt has no index")
    index = decimal(lines.pop(0)[6:])
    proof = [base64_bytes(line) for line in lines]
    need(all(len(h) == 32 for h in proof), "the receipt's proof has something else than hashes")
    note = Note(note)
    policy.judge(note)
    with entry(index):
        encoded = extra.get(0)
        if chain is not None and index < len(chain.headers):
            need(encoded in (None, chain.headers[index]), "the receipt is of another entry than the export's")
            encoded = chain.headers[index]
        need(encoded is not None, "the receipt has no header: verify it with an export that has the entry")
        root = root_of_proof(leaf_hash(encoded), index, note.size, proof)
        need(root == note.root, "the receipt's proof does not lead to the checkpoint's root")
        header = decode_header(encoded)
        need(header["sequence"] == index, "its header has sequence %d", header["sequence"])
        if 1 in extra:
            payload = checked_envelope(extra[1], header["envelope"][0])
            need(len(payload) == header["envelope"][1], "its payload has another size than the header names")
    print("receipt: entry %d, %s in workspace %s, %s, is in the log%s"
          % (index, header["kind"], header["workspace"], header_hash(encoded).hex(),
             ", and its payload is genuine" if 1 in extra else "; the receipt has no payload"))


# --- The command line.

def read(path):
    with open(path, "rb") as f:
        return f.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("export", nargs="?", help="what `exonode export` wrote, from entry 0 on")
    parser.add_argument("--checkpoint", metavar="FILE", help="a checkpoint, which is held against the export")
    parser.add_argument("--receipt", metavar="FILE", help="a receipt")
    parser.add_argument("--policy", metavar="FILE", help="whose signatures are enough (`exonode trust export`)")
    args = parser.parse_args()
    if not args.export and not args.receipt:
        parser.error("name an export, or a --receipt")
    if args.checkpoint and not args.export:
        parser.error("a --checkpoint is held against an export: name one")
    if bool(args.policy) != bool(args.checkpoint or args.receipt):
        parser.error("--policy goes with --checkpoint and --receipt: they are verified by it")
    for stream in (sys.stdout, sys.stderr):  # names of others must not steer a terminal
        stream.reconfigure(encoding="ascii", errors="backslashreplace")
    try:
        chain, policy = None, Policy(read(args.policy)) if args.policy else None
        if args.export:
            export = read_export(read(args.export))
            chain = verify_chain(export)
            print("chain %s: %d entries, %d of them redacted; head %s, root %s" % (
                export.chain.hex(), export.size, chain.redacted, chain.head.hex(), export.trailer[3].hex()))
        if args.checkpoint:
            verify_checkpoint(Note(read(args.checkpoint)), policy, chain)
        if args.receipt:
            verify_receipt(read(args.receipt), policy, chain)
    except Bad as bad:
        print("verify.py: %s" % bad, file=sys.stderr)
        return 1
    except OSError as err:
        print("verify.py: %s" % err, file=sys.stderr)
        return 2
    print("not checked: that verdicts follow from the policy; ML-DSA-44 and client signatures; see the head of verify.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
