"""Answers questions about verify.py: one JSON array [function, argument...] a line; text that begins with "hex:" is bytes."""

import contextlib
import io
import json
import sys

sys.path.insert(0, sys.argv[1])
import verify


def plain(value):
    return value.hex() if isinstance(value, bytes) else value


def chain(data):
    done = verify.verify_chain(verify.read_export(data))
    return {"size": len(done.leaves), "head": done.head.hex(), "redacted": done.redacted}


def policy(data, note):
    verify.Policy(data).judge(verify.Note(note))


def checkpoint(export, note, policy):
    done = verify.verify_chain(verify.read_export(export))
    verify.verify_checkpoint(verify.Note(note), verify.Policy(policy), done)


def receipt(data, policy, export):
    done = verify.verify_chain(verify.read_export(export)) if export else None
    verify.verify_receipt(data, verify.Policy(policy), done)


def root(size):
    return verify.tree_root([verify.leaf_hash(b"leaf " + i.to_bytes(8, "big")) for i in range(size)])


def header(data):
    verify.decode_header(data)


def envelope(data):
    verify.decode_envelope(data)


OWN = {f.__name__: f for f in (chain, policy, checkpoint, receipt, root, header, envelope)}

for line in sys.stdin:
    name, *arguments = json.loads(line)
    arguments = [bytes.fromhex(a[4:]) if isinstance(a, str) and a.startswith("hex:") else a for a in arguments]
    if name == "root_of_proof":
        arguments[3] = [bytes.fromhex(h) for h in arguments[3]]
    answer, said = {}, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            answer["value"] = plain((OWN.get(name) or getattr(verify, name))(*arguments))
    except verify.Bad as bad:
        answer = {"bad": str(bad), "entry": bad.entry}
    answer["said"] = said.getvalue()
    print(json.dumps(answer), flush=True)
