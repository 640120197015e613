// Single commands, keys of a kind, and a pipeline, with ioredis: `ioredis.cjs PORT`.
'use strict';

const Redis = require('ioredis');
const { assert, told, run } = require('./told.cjs');

const port = Number(process.argv[2]);
const connection = {
  'db.system': 'redis', 'db.name': '0', 'net.peer.name': '127.0.0.1', 'net.peer.port': String(port), kind: 'CLIENT',
};

// What is known before the call, and by a hook that is given the command and its first argument.
const tell = (operation, key, pattern, facts) => told([`redis ${operation}`], {
  ...connection,
  'db.operation': operation,
  'db.redis.key': key,
  'db.redis.command': operation.toLowerCase(),
  'db.redis.key_pattern': pattern,
  ...facts,
});
const found = (text) => ({ 'cache.hit': true, 'cache.value_size': text.length, bytes: text.length });
const absent = { 'cache.hit': false };

run(async () => {
  const redis = new Redis(port, '127.0.0.1');
  const profile = JSON.stringify({ name: 'Ada', city: 'London' });

  await redis.set('user:42:profile', profile);
  tell('SET', 'user:42:profile', 'user:*:profile', { bytes: profile.length });
  await redis.set('session:7', 'open', 'EX', 60);
  tell('SET', 'session:7', 'session:*', { bytes: 4 });
  assert.equal(await redis.get('user:42:profile'), profile);
  tell('GET', 'user:42:profile', 'user:*:profile', found(profile));
  assert.equal(await redis.get('user:43:profile'), null);
  tell('GET', 'user:43:profile', 'user:*:profile', absent);

  await redis.hset('user:42', 'mail', 'ada@example.com');
  tell('HSET', 'user:42:mail', 'user:*', { bytes: 15 });
  assert.equal(await redis.hget('user:42', 'mail'), 'ada@example.com');
  tell('HGET', 'user:42:mail', 'user:*', found('ada@example.com'));
  assert.equal(await redis.hget('user:42', 'phone'), null);
  tell('HGET', 'user:42:phone', 'user:*', absent);

  assert.deepEqual(await redis.mget('session:7', 'session:8', 'session:9'), ['open', null, null]);
  tell('MGET', 'session:7, session:8, session:9', 'session:*', { bytes: 4, hits: 1, misses: 2 });
  assert.equal(await redis.del('session:7', 'session:8'), 1);
  tell('DEL', 'session:7, session:8', 'session:*', {});
  assert.equal(await redis.del('session:9'), 0);
  tell('DEL', 'session:9', 'session:*', {});

  const answers = await redis.pipeline().set('user:1:name', 'Bob').get('user:1:name').get('user:2:name').exec();
  assert.deepEqual(answers, [[null, 'OK'], [null, 'Bob'], [null, null]]);
  told(['redis PIPELINE'], {
    ...connection,
    'db.operation': 'PIPELINE',
    'db.redis.pipeline_length': 3,
    'db.statement': 'SET user:1:name; GET user:1:name; GET user:2:name',
    commands: [
      { command: 'SET', bytes: 3 },
      { command: 'GET', 'cache.hit': true, bytes: 3 },
      { command: 'GET', 'cache.hit': false },
    ],
  });

  await assert.rejects(redis.hget('user:42:profile', 'name'), /WRONGTYPE/);
  tell('HGET', 'user:42:profile:name', 'user:*:profile', { events: ['exception'], error: 'WRONGTYPE' });
  redis.disconnect();
});
