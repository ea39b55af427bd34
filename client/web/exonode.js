// Verifies Exonode's receipts and checkpoints, and follows a log, in browsers and in
// Node.js (18 or newer). It needs verify.wasm and wasm_exec.js beside it, and nothing else.
//
//     import { load, Follower } from "./exonode.js";
//     const verifier = await load();
//     const verdict = verifier.verifyReceipt(receipt, policy);
//     if (verdict.ok) console.log(verdict.kind, verdict.time); else console.error(verdict.message);
//
// What is refused is a value, with ok false, and not an exception. docs/BROWSER.md has the
// codes and what to do about them.

/**
 * @typedef {Uint8Array | ArrayBuffer | string} Data  Bytes, or text as UTF-8.
 *
 * @typedef {object} Refusal
 * @property {false} ok
 * @property {string} code  See docs/BROWSER.md.
 * @property {string} message  For people.
 * @property {Evidence} [evidence]  Where code is "equivocation".
 *
 * @typedef {object} Evidence  Two signed checkpoints that can't both be of one log.
 * @property {string} trusted  The note that was trusted.
 * @property {string} note  The note that contradicts it.
 * @property {string} root  In hexadecimal: the root that the tree of note has at the size of trusted.
 * @property {string[]} proof  In hexadecimal: RFC 6962 consistency proof from there to the root of note.
 *
 * @typedef {object} Cosignature
 * @property {string} witness  Its name in the policy.
 * @property {string} key  The name of its key.
 * @property {number} time  Unix seconds; 0 where it did not say.
 *
 * @typedef {object} Checkpoint  A checkpoint that satisfies the policy.
 * @property {true} ok
 * @property {string} origin
 * @property {number} size  Entries in the tree, at most Number.MAX_SAFE_INTEGER.
 * @property {string} root  In hexadecimal.
 * @property {Cosignature[]} cosigned  The genuine ones of the policy's witnesses.
 *
 * @typedef {Checkpoint & {grown: boolean}} Followed  grown: its tree is larger than the trusted one, or the first.
 *
 * @typedef {object} Entry  What a receipt proves of its entry.
 * @property {string} chainId  In hexadecimal.
 * @property {number} epoch
 * @property {number} sequence
 * @property {string} hash  The header hash, in hexadecimal.
 * @property {string} time  RFC 3339 with up to nine digits of a second, UTC.
 * @property {string} workspace
 * @property {string} source
 * @property {string} id
 * @property {string} kind
 * @property {string} subject
 * @property {string} principal
 * @property {string} contentType
 * @property {string | null} decision  The gate's, null where none was asked.
 * @property {Uint8Array | null} payload  Null where the receipt has no envelope.
 *
 * @typedef {object} State  What a Follower trusts; JSON keeps it.
 * @property {string} note  The newest checkpoint that was accepted.
 * @property {Evidence} [evidence]  That the log contradicted itself: it is not followed any more.
 */

/** @param {Data} data */
function bytes(data) {
	if (typeof data === "string") return new TextEncoder().encode(data);
	if (data instanceof ArrayBuffer) return new Uint8Array(data);
	return data; // the verifier refuses what is no Uint8Array
}

/** Number of calls to load, which makes the names of their globals differ. */
let loads = 0;

/**
 * Loads the verifier; it may be used any number of times, and loaded more than once.
 *
 * @param {string | URL | Uint8Array | ArrayBuffer} [source]  verify.wasm, or where it is.
 * @returns {Promise<Verifier>}
 */
export async function load(source = new URL("verify.wasm", import.meta.url)) {
	// Node.js 18 has it, and not as a global; wasm_exec.js asks for it.
	globalThis.crypto ??= (await import("node:crypto")).webcrypto;
	await import("./wasm_exec.js"); // defines globalThis.Go, once
	const go = new globalThis.Go();
	const { instance } = await WebAssembly.instantiate(await binary(source), go.importObject);
	const name = `exonode-verify-${++loads}`;
	go.argv = ["verify.wasm", name];
	try {
		return await new Promise((resolve, reject) => {
			globalThis[name] = (functions) => resolve(new Verifier(functions));
			go.run(instance).then(() => reject(new Error("verify.wasm ended")), reject);
		});
	} finally {
		delete globalThis[name];
	}
}

async function binary(source) {
	if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
	const url = new URL(source, globalThis.location?.href ?? import.meta.url);
	if (url.protocol === "file:") return (await import("node:fs/promises")).readFile(url); // Node's fetch has no files
	const response = await fetch(url);
	if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
	return response.arrayBuffer();
}

/** Verifier is what load returns. It reads no network and keeps nothing between calls. */
export class Verifier {
	#functions;

	constructor(functions) {
		this.#functions = functions;
	}

	#call(name, ...args) {
		const result = this.#functions[name](...args);
		if (typeof result?.ok !== "boolean") throw new Error("verify.wasm has ended: load it again");
		return result;
	}

	/**
	 * Holds a receipt (C2SP tlog-proof) against a policy (C2SP tlog-policy).
	 *
	 * @param {Data} receipt
	 * @param {Data} policy
	 * @returns {(Checkpoint & Entry) | Refusal}
	 */
	verifyReceipt(receipt, policy) {
		return this.#call("verifyReceipt", bytes(receipt), bytes(policy));
	}

	/**
	 * Holds a signed checkpoint against a policy. That it extends others is not looked at.
	 *
	 * @param {Data} note
	 * @param {Data} policy
	 * @returns {Checkpoint | Refusal}
	 */
	verifyNote(note, policy) {
		return this.#call("verifyNote", bytes(note), bytes(policy));
	}

	/**
	 * Says which tiles followCheckpoint needs for these two notes. Nothing is verified.
	 *
	 * @param {Data | null} trusted
	 * @param {Data} note
	 * @returns {{ok: true, paths: string[]} | Refusal}
	 */
	checkpointTiles(trusted, note) {
		return this.#call("checkpointTiles", trusted === null ? null : bytes(trusted), bytes(note));
	}

	/**
	 * Decides whether a note may take the place of a trusted one: it satisfies the policy,
	 * and its tree begins with the trusted one's. Where the verdict is ok, the note is what
	 * to trust from now on; otherwise keep the other.
	 *
	 * @param {Data | null} trusted  A note that was accepted before; null takes the first one on its signatures alone.
	 * @param {Data} note
	 * @param {Data} policy
	 * @param {Record<string, Uint8Array>} tiles  By path, those that checkpointTiles names; from anywhere, they are verified.
	 * @returns {Followed | Refusal}
	 */
	followCheckpoint(trusted, note, policy, tiles) {
		return this.#call("followCheckpoint", trusted === null ? null : bytes(trusted), bytes(note), bytes(policy), tiles);
	}
}

/** The most bytes that are read of a note, and of a tile. */
const maxNote = 256 << 10;
const maxTile = 256 * 32;

/** NotFetched is thrown where the log did not answer as it should, within this file. */
class NotFetched extends Error {}

/**
 * Follows a log that serves C2SP tlog-tiles: a node, or a static export of one. The first
 * checkpoint is taken on its signatures, each later one only if it extends that.
 */
export class Follower {
	#verifier;
	#base;
	#policy;
	/** @type {State | null} */
	#state;
	/** The update that runs: the next one waits for it. */
	#running = Promise.resolve();

	/**
	 * @param {Verifier} verifier
	 * @param {string | URL} base  What /checkpoint and /tile/… are under; in a page it may be relative.
	 * @param {Data} policy
	 * @param {State | null} [state]  Another Follower's, of the same log, to go on from.
	 */
	constructor(verifier, base, policy, state = null) {
		if (state !== null && typeof state.note !== "string") throw new TypeError("state: want null, or the state of a Follower");
		this.#verifier = verifier;
		this.#base = new URL(base, globalThis.location?.href);
		this.#base.pathname = this.#base.pathname.replace(/\/*$/, "/");
		this.#policy = policy;
		this.#state = structuredClone(state);
	}

	/** What is trusted, as plain data; null before the first checkpoint. Store it after each update. */
	get state() {
		return structuredClone(this.#state);
	}

	/**
	 * Fetches the log's checkpoint, verifies it and what it takes to show that it extends the
	 * trusted one, and trusts it then. After an equivocation it answers that, and fetches no more.
	 *
	 * @param {{signal?: AbortSignal}} [options]  The signal ends it early.
	 * @returns {Promise<Followed | Refusal>}
	 */
	update({ signal } = {}) {
		const result = this.#running.then(() => this.#update(signal));
		this.#running = result.then(() => {}, () => {});
		return result;
	}

	async #update(signal) {
		if (this.#state?.evidence) return this.#equivocated(this.#state.evidence);
		const trusted = this.#state?.note ?? null;
		let note;
		const tiles = Object.create(null);
		try {
			note = await this.#fetch("checkpoint", maxNote, signal);
			if (note === null) throw new NotFetched("the log has published no checkpoint yet");
			// Signatures first: tiles are fetched for nobody else's checkpoint.
			const signed = this.#verifier.verifyNote(note, this.#policy);
			if (!signed.ok) return signed;
			const needed = this.#verifier.checkpointTiles(trusted, note);
			if (!needed.ok) return needed;
			await Promise.all(needed.paths.map(async (path) => {
				tiles[path] = await this.#tile(path, signal);
			}));
		} catch (error) {
			if (error instanceof NotFetched) return { ok: false, code: "fetch", message: error.message };
			throw error;
		}
		const verdict = this.#verifier.followCheckpoint(trusted, note, this.#policy, tiles);
		if (verdict.evidence) this.#state = { note: trusted, evidence: structuredClone(verdict.evidence) };
		if (!verdict.ok) return verdict;
		this.#state = { note: new TextDecoder().decode(note) };
		return verdict;
	}

	#equivocated(evidence) {
		const message = "this log has signed two histories: it is not followed any more, see the evidence";
		return { ok: false, code: "equivocation", message, evidence: structuredClone(evidence) };
	}

	async #tile(path, signal) {
		let tile = await this.#fetch(path, maxTile, signal);
		// A log may delete a partial tile once there is the full one, which begins with it.
		if (tile === null) tile = await this.#fetch(path.replace(/\.p\/\d+$/, ""), maxTile, signal);
		if (tile === null) throw new NotFetched(`${new URL(path, this.#base)}: 404, and the checkpoint says that it is there`);
		return tile;
	}

	/** Returns what is at a path, null where there is nothing. */
	async #fetch(path, limit, signal) {
		const url = new URL(path, this.#base);
		try {
			const response = await fetch(url, { signal });
			if (response.status === 404) return null;
			if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
			return await read(response, limit);
		} catch (error) {
			throw new NotFetched(`${url}: ${error.cause?.message ?? error.message}`);
		}
	}
}

/** Reads a response, and gives up where it is longer than what may be in it. */
async function read(response, limit) {
	const whole = new Uint8Array(limit);
	let length = 0;
	for (const reader = response.body.getReader(); ;) {
		const { done, value } = await reader.read();
		if (done) return whole.slice(0, length);
		if (length + value.length > limit) {
			await reader.cancel();
			throw new Error(`more than ${limit} bytes`);
		}
		whole.set(value, length);
		length += value.length;
	}
}
