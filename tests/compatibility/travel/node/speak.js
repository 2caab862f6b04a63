// What every client of this suite says and hears: see python/speak.py.
'use strict';
const readline = require('readline');

const columns = 'feeling feelings spot spots span spans tags many_tags name names amount amounts note notes'.split(' ');

function kind(value) {
  if (value === null) return 'null';
  if (Buffer.isBuffer(value)) return 'Buffer';
  if (Array.isArray(value)) return `array[${[...new Set(value.map(kind))].sort().join(', ')}]`;
  if (typeof value === 'object') return value.constructor.name;
  return typeof value;
}

class Answers {
  constructor(driver, connection) {
    Object.assign(this, { driver, connection });
  }

  tell(name, kindOf, value) {
    process.stdout.write(`${this.driver}|${this.connection}|${name}|${kindOf}|${JSON.stringify(value)}\n`);
  }

  async of(name, ask) {
    try {
      const value = await ask();
      this.tell(name, kind(value), Buffer.isBuffer(value) ? value.toString('hex') : value);
    } catch (error) {
      this.tell(name, 'ERROR', `${error.code}: ${error.message}`);
    }
  }
}

async function converse(driver, openAll, ask) {
  const opened = [];
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [word, name] = line.trim().split(' ');
    if (word === 'open') {
      try {
        for (const [variant, connection] of await openAll(name)) opened.push([`${name}/${variant}`, connection]);
      } catch (error) {
        new Answers(driver, `${name}/all`).tell('open', 'ERROR', `${error.code}: ${error.message}`);
      }
    } else if (word === 'ask') {
      for (const [label, connection] of opened) await ask(new Answers(driver, label), connection);
    } else if (word === 'end') {
      process.exit(0);
    }
    process.stdout.write('done\n');
  }
}

module.exports = { columns, converse };
