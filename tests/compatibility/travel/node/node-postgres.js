// node-postgres: parsers registered for the whole process under OIDs that are read once; text and binary, named statements and unnamed ones.
'use strict';
const { Client, types } = require('pg');
const { columns, converse } = require('./speak');

let oids;

async function register(client) {
  const names = ['mood', 'mood[]', 'place', 'place[]', 'span', 'hstore', 'citext', 'citext[]', 'positive[]'];
  const found = await client.query('SELECT n, n::regtype::oid::int AS oid FROM unnest($1::text[]) n', [names]);
  oids = Object.fromEntries(found.rows.map(({ n, oid }) => [n, oid]));
  const texts = types.getTypeParser(1009);
  for (const name of ['mood[]', 'place[]', 'citext[]', 'positive[]']) types.setTypeParser(oids[name], texts);
  types.setTypeParser(oids.mood, (text) => ({ mood: text }));
  types.setTypeParser(oids.hstore, (text) => ({ hstore: text }));
  types.setTypeParser(oids.mood, 'binary', (bytes) => ({ mood: bytes.toString() }));
  types.setTypeParser(oids.citext, 'binary', (bytes) => ({ citext: bytes.toString() }));
}

async function openAll() {
  const opened = [];
  for (const variant of ['text', 'binary']) {
    const client = new Client({ binary: variant === 'binary' });
    await client.connect();
    if (!oids) await register(client);
    opened.push([variant, client]);
  }
  return opened;
}

async function ask(answers, client) {
  const one = async (text, values, name) => {
    const found = await client.query({ text, values, name, rowMode: 'array' });
    return found.rows[0];
  };
  for (const column of columns) {
    await answers.of(`read ${column}`, async () => (await one(`SELECT ${column} FROM things WHERE id = 1`, []))[0]);
    await answers.of(`read ${column}, named`, async () => (await one(`SELECT ${column} FROM things WHERE id = $1`, [1], `read ${column}`))[0]);
  }
  const parameters = [['mood', 'ok'], ['mood[]', ['ok', 'sad']], ['hstore', 'a=>1'], ['place', '(1,2,b)']];
  for (const [type, value] of parameters) {
    for (const name of [undefined, `fo ${type}`]) {
      const how = name ? 'named' : 'unnamed';
      await answers.of(`function of ${type}, ${how}`, () => one(`SELECT fo($1::${type}), pg_typeof($1)::text, $1`, [value], name));
    }
  }
  await answers.of('find', () => one('SELECT id FROM things WHERE feeling = $1 AND feelings = $2', ['happy', ['sad', 'ok']], 'find'));
  await answers.of('write', () => one(
    `INSERT INTO written (client, feeling, feelings, spot, tags) VALUES ('node-postgres', $1, $2, $3, $4)
     ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, spot, tags`,
    ['ok', ['ok', 'sad'], '(7,8,w)', 'w=>x'], 'write'));
}

converse('node-postgres', openAll, ask);
