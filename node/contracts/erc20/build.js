// npm install --no-save && npm run build: writes Token.json, byte for byte as it is in the tree.
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const read = (name) =>
  fs.readFileSync(name === "Token.sol" ? path.join(__dirname, name) : require.resolve(name), "utf8");
const input = {
  language: "Solidity",
  sources: { "Token.sol": { content: read("Token.sol") } },
  settings: {
    evmVersion: "osaka",
    optimizer: { enabled: true, runs: 200 },
    outputSelection: { "Token.sol": { Token: ["abi", "metadata", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: (name) => ({ contents: read(name) }) }));
const errors = (output.errors || []).filter((error) => error.severity === "error");
if (errors.length > 0) {
  throw new Error(errors.map((error) => error.formattedMessage).join("\n"));
}
const token = output.contracts["Token.sol"].Token;
const metadata = JSON.parse(token.metadata);
const artifact = {
  contractName: "Token",
  compiler: `solc ${metadata.compiler.version}`,
  settings: { evmVersion: "osaka", optimizer: metadata.settings.optimizer },
  sources: Object.fromEntries(
    Object.entries(metadata.sources).map(([name, source]) => [name, { keccak256: source.keccak256, license: source.license }]),
  ),
  abi: token.abi,
  bytecode: { object: "0x" + token.evm.bytecode.object },
  deployedBytecode: { object: "0x" + token.evm.deployedBytecode.object },
};
fs.writeFileSync(path.join(__dirname, "Token.json"), JSON.stringify(artifact, null, 2) + "\n");
