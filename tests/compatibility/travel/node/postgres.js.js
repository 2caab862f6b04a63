// postgres.js: it reads the types of arrays once for all connections of a client, and describes each statement before it sends values.
'use strict';
const postgres = require('postgres');
const { columns, converse } = require('./speak');

const environment = process.env;
const options = {
  host: environment.PGHOST, port: Number(environment.PGPORT), database: environment.PGDATABASE,
  user: environment.PGUSER, password: environment.PGPASSWORD, max: 40, onnotice() {},
};
const clients = {};

async function start() {
  const look = postgres({ ...options, max: 1 });
  const [{ mood, tags }] = await look`SELECT 'mood'::regtype::oid::int AS mood, 'hstore'::regtype::oid::int AS tags`;
  await look.end();
  const types = {
    mood: { to: mood, from: [mood], serialize: (value) => value.mood || value, parse: (text) => ({ mood: text }) },
    tags: { to: tags, from: [tags], serialize: (value) => value.tags || value, parse: (text) => ({ tags: text }) },
  };
  clients.typed = postgres({ ...options, types });
  clients.plain = postgres(options);
  clients.unprepared = postgres({ ...options, prepare: false });
}

async function openAll() {
  if (!clients.typed) await start();
  const opened = [];
  for (const [variant, client] of Object.entries(clients)) opened.push([variant, [variant, await client.reserve()]]);
  return opened;
}

async function ask(answers, [variant, sql]) {
  for (const column of columns) {
    await answers.of(`read ${column}`, async () => (await sql`SELECT ${sql(column)} FROM things WHERE id = ${1}`)[0][column]);
  }
  const client = clients[variant];
  const mood = (text) => (variant === 'typed' ? client.typed.mood({ mood: text }) : text);
  const tags = (text) => (variant === 'typed' ? client.typed.tags({ tags: text }) : text);
  const first = async (query) => Object.values((await query)[0]);
  await answers.of('function of mood', () => first(sql`SELECT fo(${mood('ok')}), pg_typeof(${mood('ok')}::mood)::text AS b`));
  await answers.of('function of tags', () => first(sql`SELECT fo(${tags('a=>1')})`));
  await answers.of('function of mood[]', () => first(sql`SELECT fo(${['ok', 'sad']}::mood[])`));
  await answers.of('function of place', () => first(sql`SELECT fo(${'(1,2,b)'}::place)`));
  await answers.of('find', () => first(sql`SELECT id FROM things WHERE feeling = ${mood('happy')} AND feelings = ${['sad', 'ok']}`));
  await answers.of('write', () => first(sql`
    INSERT INTO written (client, feeling, feelings, spot, tags, name)
    VALUES (${`postgres.js ${variant}`}, ${mood('ok')}, ${['ok', 'sad']}, ${'(7,8,w)'}, ${tags('w=>x')}, ${'Name'})
    ON CONFLICT (client) DO UPDATE SET feeling = excluded.feeling RETURNING feeling, feelings, spot, tags, name`));
}

converse('postgres.js', openAll, ask);
