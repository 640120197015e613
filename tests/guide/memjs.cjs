// Reads, writes and deletes with memjs, which speaks the binary dialect: `memjs.cjs PORT`.
'use strict';

const { Client } = require('memjs');
const { assert, told, run } = require('./told.cjs');

const server = `127.0.0.1:${process.argv[2]}`;
const tell = (operation, key, facts) => told([`memcached ${operation}`], {
  kind: 'CLIENT',
  'db.system': 'memcached',
  'db.operation': operation,
  'db.memcached.key': key,
  'net.peer.name': server,
  ...facts,
});

run(async () => {
  const client = Client.create(server, { retries: 1, timeout: 10, logger: { log() {} } });
  const page = '<p>'.repeat(700);

  assert.equal(await client.set('page:/home', page, { expires: 600 }), true);
  tell('SET', 'page:/home', { 'db.memcached.ttl': 600, bytes: page.length });
  assert.equal(await client.set('page:/help', 'no', {}), true);
  tell('SET', 'page:/help', { 'db.memcached.ttl': 0, bytes: 2 });
  assert.equal((await client.get('page:/home')).value.length, page.length);
  tell('GET', 'page:/home', { 'cache.hit': true, 'cache.value_size': page.length, bytes: page.length });
  assert.equal((await client.get('page:/none')).value, null);
  tell('GET', 'page:/none', { 'cache.hit': false });
  assert.equal(await client.delete('page:/help'), true);
  tell('DELETE', 'page:/help', {});
  assert.equal(await client.delete('page:/help'), false);
  tell('DELETE', 'page:/help', {});
  // Larger than the server's items may be.
  const large = 'x'.repeat(1_100_000);
  await assert.rejects(client.set('page:/large', large, {}));
  const refused = { events: ['exception'], error: 'E2BIG', bytes: large.length };
  tell('SET', 'page:/large', { 'db.memcached.ttl': 0, ...refused });
  client.quit();
});
