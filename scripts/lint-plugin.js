// The rules of Buildkite's plugin linter, and one of our own: the schema and the binary agree.
//
//   node scripts/lint-plugin.js ROOT [PAGE]...
//
// 1. plugin.yml has its five keys, in the right kinds.
// 2. Its schema compiles as draft-07 in strict mode (types apart).
// 3. Every yaml block of the README and the pages in docs parses, and every use of this plugin with a version in it fits the schema.
// 4. The versions named there are versions, and none is older than the newest tag.
// 5. The schema answers tests/fixtures/plugin-config.json as the binary does.
"use strict";

const fs = require("fs");
const path = require("path");
const Ajv = require("ajv");
const yaml = require("js-yaml");
const { compareVersions, validate: isVersion } = require("compare-versions");

const ID = "vital-software/monofo";
const root = process.argv[2];
const docs = () => fs.readdirSync(path.join(root, "docs")).filter((name) => name.endsWith(".md")).map((name) => path.join("docs", name));
const named = process.argv.slice(3);
const pages = named.length > 0 ? named : ["README.md", ...docs()].map((name) => path.join(root, name));
const findings = [];

function expect(right, finding) {
  if (!right) findings.push(finding);
  return right;
}

const isMap = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function checkDefinition(plugin) {
  for (const key of ["name", "description", "author"]) {
    expect(typeof plugin[key] === "string" && plugin[key] !== "", `plugin.yml: ${key} is not a text`);
  }
  expect(Array.isArray(plugin.requirements), "plugin.yml: requirements is not a list");
  const schema = plugin.configuration;
  if (!expect(isMap(schema), "plugin.yml: configuration is not a map")) return;
  expect(isMap(schema.properties), "plugin.yml: configuration.properties is not a map");
  expect(schema.required === undefined || Array.isArray(schema.required), "plugin.yml: required is not a list");
  expect(schema.additionalProperties === false, "plugin.yml: unknown keys are not refused");
  // The agent's own validator cannot resolve it, and its expressions have no look-around.
  expect(schema.definitions === undefined, "plugin.yml: the agent resolves $defs only, not definitions");
  expect(!/\(\?[=!<]/.test(JSON.stringify(schema)), "plugin.yml: a pattern uses look-around, which the agent lacks");
}

function compile(plugin) {
  try {
    return new Ajv({ strictTypes: false, allErrors: true }).compile(plugin.configuration);
  } catch (error) {
    findings.push(`plugin.yml: the schema does not compile: ${error.message}`);
    return null;
  }
}

// Fenced blocks marked yaml or yml, with the line they begin at. A fence may be indented and longer than three.
function yamlBlocks(text) {
  const blocks = [];
  let open = null;
  text.split(/\r?\n/).forEach((line, index) => {
    const fence = /^(\s*)(`{3,}|~{3,})\s*([^`\s]*)/.exec(line);
    if (open && fence && fence[3] === "" && fence[2].startsWith(open.fence)) {
      if (/^ya?ml$/i.test(open.language)) blocks.push({ line: open.line, text: open.lines.join("\n") });
      open = null;
    } else if (open) {
      open.lines.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line);
    } else if (fence) {
      open = { indent: fence[1], fence: fence[2], language: fence[3], line: index + 2, lines: [] };
    }
  });
  return blocks;
}

// Steps of a pipeline, of a bare list, and of groups.
function stepsOf(document) {
  const steps = Array.isArray(document) ? document : isMap(document) ? document.steps : undefined;
  if (!Array.isArray(steps)) return [];
  return steps.filter(isMap).flatMap((step) => [step, ...stepsOf(step)]);
}

function usesOf(step) {
  const plugins = Array.isArray(step.plugins) ? step.plugins : isMap(step.plugins) ? [step.plugins] : [];
  return plugins
    .flatMap((plugin) => (typeof plugin === "string" ? [[plugin, null]] : isMap(plugin) ? Object.entries(plugin) : []))
    .map(([location, configuration]) => ({ id: location.split("#")[0], version: location.split("#")[1], configuration }))
    .filter((use) => use.id === ID);
}

function checkPage(page, validate) {
  if (!expect(fs.existsSync(page), `${page}: is missing`)) return 0;
  const tags = (process.env.MONOFO_TAGS || "").split(/\s+/).filter((tag) => tag !== "" && isVersion(tag));
  const newest = tags.sort(compareVersions).pop();
  const name = path.relative(root, page);
  let examples = 0;
  for (const block of yamlBlocks(fs.readFileSync(page, "utf8"))) {
    const at = `${name}, line ${block.line}`;
    let documents;
    try {
      documents = yaml.loadAll(block.text);
    } catch (error) {
      findings.push(`${at}: not YAML: ${error.message}`);
      continue;
    }
    for (const use of documents.flatMap(stepsOf).flatMap(usesOf)) {
      if (!expect(use.version, `${at}: ${ID} is used without a version`)) continue;
      examples += 1;
      if (expect(isVersion(use.version), `${at}: ${use.version} is not a version`) && newest) {
        expect(compareVersions(use.version, newest) >= 0, `${at}: ${use.version} is older than the newest tag ${newest}`);
      }
      if (validate && !validate(use.configuration)) {
        findings.push(`${at}: does not fit plugin.yml: ${describe(validate.errors)}`);
      }
    }
  }
  return examples;
}

function describe(errors) {
  return errors.map((error) => `${error.instancePath || "/"} ${error.message}`).join("; ");
}

function checkAgreement(validate) {
  const cases = JSON.parse(fs.readFileSync(path.join(root, "tests/fixtures/plugin-config.json"), "utf8"));
  for (const { what, config, good, schema = good } of cases) {
    if (validate(config) !== schema) {
      findings.push(`plugin-config.json: ${what}: the schema says ${!schema}: ${describe(validate.errors || [])}`);
    }
  }
  return cases.length;
}

const plugin = yaml.load(fs.readFileSync(path.join(root, "plugin.yml"), "utf8"));
checkDefinition(plugin);
const validate = compile(plugin);
const examples = pages.reduce((sum, page) => sum + checkPage(page, validate), 0);
expect(examples > 0, `no page has an example that uses ${ID}#vX.Y.Z`);
const cases = validate ? checkAgreement(validate) : 0;
for (const finding of findings) console.error(`error: ${finding}`);
console.log(`lint-plugin: ${examples} examples in ${pages.length} pages, ${cases} configurations, ${findings.length} findings`);
process.exitCode = findings.length === 0 ? 0 : 1;
