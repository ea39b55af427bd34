// node follow.mjs <directory of the verifier> <base URL of a node> <policy> <receipt> <state>
//
// Verifies a receipt and follows the node's log from the state in a file, which may be
// absent and is written anew. Prints what came of both.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [dir, base, policyFile, receiptFile, stateFile] = process.argv.slice(2);
const { load, Follower } = await import(pathToFileURL(join(dir, "exonode.js")));
const policy = readFileSync(policyFile);
const verifier = await load();
const follower = new Follower(verifier, base, policy, existsSync(stateFile) ? JSON.parse(readFileSync(stateFile)) : null);
const followed = await follower.update();
if (follower.state !== null) writeFileSync(stateFile, JSON.stringify(follower.state));
console.log(JSON.stringify({ receipt: verifier.verifyReceipt(readFileSync(receiptFile), policy), followed }));
