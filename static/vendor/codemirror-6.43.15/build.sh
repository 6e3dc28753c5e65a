#!/bin/sh
# Makes codemirror.esm.js again: sh build.sh <empty directory>. Needs node and npm, nothing of which is kept here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
npm init -y >/dev/null
npm install --no-audit --no-fund \
  @codemirror/state@6.7.6 @codemirror/view@6.43.15 @codemirror/commands@6.11.1 @codemirror/language@6.13.1 \
  @codemirror/autocomplete@6.20.4 @codemirror/lint@6.9.8 @codemirror/search@6.7.2 @codemirror/lang-json@6.0.2 \
  @lezer/common@1.5.5 @lezer/highlight@1.2.5 @lezer/json@1.0.3 @lezer/lr@1.4.12 style-mod@4.1.4 crelt@1.0.7 \
  w3c-keyname@2.2.8 @marijn/find-cluster-break@1.0.4 @codemirror/streamparser@6.0.0 esbuild@0.28.2
node node_modules/esbuild/install.js
cp "$here/exports.js" .
npx esbuild exports.js --bundle --format=esm --minify --legal-comments=none --target=es2022 \
  --outfile="$here/codemirror.esm.js"
