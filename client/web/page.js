// The example page: index.html's one script.

import { load } from "./exonode.js";

const policy = document.getElementById("policy");
const file = document.getElementById("file");
const drop = document.getElementById("drop");
const verdict = document.getElementById("verdict");
const facts = document.getElementById("facts");

/** The receipt that was chosen last, as bytes. */
let receipt = null;
let verifier = null;

function show(text, kind, rows = []) {
	verdict.textContent = text;
	verdict.className = kind;
	facts.replaceChildren(...rows.flatMap(([name, value]) => {
		const dt = document.createElement("dt");
		const dd = document.createElement("dd");
		dt.textContent = name;
		dd.textContent = value; // as text: an entry may say anything
		return [dt, dd];
	}));
}

function payload(bytes) {
	if (bytes === null) return "not in this receipt";
	try {
		return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
	} catch {
		return `${bytes.length} bytes that are not text`;
	}
}

function verify() {
	if (verifier === null) return;
	const text = policy.value.trim();
	if (receipt === null || text === "") {
		show("Give a policy and a receipt.", "");
		return;
	}
	const r = verifier.verifyReceipt(receipt, text + "\n");
	if (!r.ok) {
		show(`Refused (${r.code}): ${r.message}`, "refused");
		return;
	}
	show(`Genuine: entry ${r.sequence} of ${r.origin}`, "ok", [
		["kind", r.kind], ["time", r.time], ["source", r.source], ["id", r.id], ["subject", r.subject],
		["principal", r.principal], ["decision", r.decision ?? "no gate was asked"], ["hash", r.hash], ["payload", payload(r.payload)],
		["entries in the tree", String(r.size)], ["root", r.root],
		...r.cosigned.map((c) => ["cosigned by", `${c.witness}, ${new Date(c.time * 1000).toUTCString()}`]),
	]);
}

async function take(files) {
	if (files.length === 0) return;
	receipt = new Uint8Array(await files[0].arrayBuffer());
	verify();
}

policy.addEventListener("input", verify);
file.addEventListener("change", () => take(file.files));
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
	event.preventDefault();
	take(event.dataTransfer.files);
});

load().then((loaded) => {
	verifier = loaded;
	verify();
}, (error) => show(`The verifier did not load: ${error.message}`, "refused"));
