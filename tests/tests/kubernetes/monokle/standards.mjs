// The controls of the Pod Security Standards that each object of a JSON file does not keep, as Monokle knows them.
//
//   node standards.mjs FOLDER_OF_NODE_MODULES FILE

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// Its rules by number, and what the standards call them.
const CONTROLS = {
  PSS101: "HostProcess",
  PSS102: "Host Namespaces",
  PSS103: "Privileged Containers",
  PSS104: "Capabilities",
  PSS105: "HostPath Volumes",
  PSS106: "Host Ports",
  PSS107: "AppArmor",
  PSS108: "SELinux",
  PSS109: "/proc Mount Type",
  PSS110: "Seccomp",
  PSS111: "Sysctls",
  PSS201: "Volume Types",
  PSS202: "Privilege Escalation",
  PSS203: "Running as Non-root",
  PSS204: "Running as Non-root user",
  PSS205: "Seccomp",
  PSS206: "Capabilities",
};

const require = createRequire(join(process.argv[2], "from"));
const { createDefaultMonokleValidator } = await import(pathToFileURL(require.resolve("@monokle/validation")));

const objects = JSON.parse(readFileSync(process.argv[3], "utf8"));
const found = objects.map((content, number) => {
  const id = String(number);
  return { content, id, resource: resource(content, id), controls: new Set() };
});

function resource(content, id) {
  const { apiVersion, kind, metadata } = content;
  const text = JSON.stringify(content);
  return { id, apiVersion, kind, name: metadata.name, content, text, fileId: id, filePath: id, fileOffset: 0 };
}

const validator = createDefaultMonokleValidator();
const names = [
  "volume-types",
  "privilege-escalation",
  "running-as-non-root",
  "running-as-non-root-user",
  "seccomp-strict",
  "capabilities-strict",
];
await validator.preload({
  plugins: { "pod-security-standards": true },
  rules: Object.fromEntries(names.map((name) => [`pod-security-standards/${name}`, true])),
});
for (const one of found) {
  const { runs } = await validator.validate({ resources: [one.resource] });
  for (const { ruleId } of runs.flatMap((run) => run.results)) {
    one.controls.add(CONTROLS[ruleId] ?? ruleId);
  }
}
console.log(JSON.stringify(found.map((one) => [...one.controls].sort())));
