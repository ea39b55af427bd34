// Does what the test asks for, with the verifier under test, and reports what came of it.
// It judges nothing: the test does.

const decode = (base64 = "") => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** What JSON would lose: bytes. */
const plain = (result) => (result.payload instanceof Uint8Array ? { ...result, payload: btoa(String.fromCharCode(...result.payload)) } : result);

/** Flips one bit of each byte and returns the codes of the refusals. */
function flip(verifier, step) {
	const receipt = decode(step.data);
	return Array.from(receipt, (_, i) => {
		receipt[i] ^= 1 << (i % 8);
		const verdict = verifier.verifyReceipt(receipt, step.policy);
		receipt[i] ^= 1 << (i % 8);
		return verdict.ok ? "ok" : verdict.code;
	});
}

/** @returns the results of base/steps.json, in their order; it posts them to base/results. */
export async function drive(exonode, wasm, base) {
	const steps = await (await fetch(new URL("steps.json", base))).json();
	const verifier = await exonode.load(wasm);
	const states = {};
	const results = [];
	for (const step of steps) {
		switch (step.op) {
		case "receipt":
			results.push(plain(verifier.verifyReceipt(decode(step.data), step.policy)));
			break;
		case "note":
			results.push(verifier.verifyNote(decode(step.data), step.policy));
			break;
		case "flip":
			results.push({ codes: flip(verifier, step) });
			break;
		case "follow": {
			// As a page does that is loaded again: all that is kept went through JSON.
			const state = JSON.parse(states[step.follower] ?? "null");
			const follower = new exonode.Follower(verifier, new URL(step.log, base), step.policy, state);
			// Two at once: the second finds what the first one left.
			const [result, again] = await Promise.all([follower.update(), follower.update()]);
			states[step.follower] = JSON.stringify(follower.state);
			results.push({ ...result, again, state: follower.state });
			break;
		}
		case "misuse": {
			const codes = [verifier.verifyReceipt(null, step.policy), verifier.verifyReceipt(new Uint8Array((4 << 20) + 1), step.policy),
				verifier.followCheckpoint(undefined, "note", step.policy, {}), verifier.followCheckpoint(null, decode(step.data), step.policy, null)].map((r) => r.code);
			const aborted = await new exonode.Follower(verifier, base, step.policy).update({ signal: AbortSignal.abort() });
			let thrown = "";
			try {
				new exonode.Follower(verifier, base, step.policy, {});
			} catch (error) {
				thrown = error.name;
			}
			results.push({ codes: [...codes, aborted.code, thrown, Object.keys(globalThis).filter((k) => k.startsWith("exonode")).join()] });
			break;
		}
		case "page":
			if (globalThis.document) results.push(await page(step, base));
			else results.push({});
			break;
		default:
			throw new Error(`step ${step.op}`);
		}
	}
	await fetch(new URL("results", base), { method: "POST", body: JSON.stringify(results) });
}

/** Uses the example page as people do: a policy, then a file. */
async function page(step, base) {
	const frame = document.createElement("iframe");
	frame.src = new URL("web/index.html", base);
	const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
	document.body.append(frame);
	await loaded;
	const inner = frame.contentDocument;
	const $ = (id) => inner.getElementById(id);
	const becomes = (kind) => new Promise((resolve) => {
		const look = () => $("verdict").className === kind && resolve($("verdict").textContent + "\n" + $("facts").textContent);
		new frame.contentWindow.MutationObserver(look).observe(inner.body, { subtree: true, childList: true, attributes: true, characterData: true });
		look();
	});
	const choose = (bytes) => {
		const files = new frame.contentWindow.DataTransfer();
		files.items.add(new frame.contentWindow.File([bytes], "x.tlog-proof"));
		$("file").files = files.files;
		$("file").dispatchEvent(new frame.contentWindow.Event("change"));
	};
	$("policy").value = step.policy;
	$("policy").dispatchEvent(new frame.contentWindow.Event("input"));
	choose(decode(step.data));
	const genuine = await becomes("ok");
	const changed = decode(step.data);
	changed[100] ^= 1;
	choose(changed);
	return { genuine, refused: await becomes("refused") };
}
