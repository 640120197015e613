// memjs: `memjs.cjs PORT plain`, `memjs.cjs PORT known USER PASSWORD`. It speaks the binary dialect
// only.
'use strict';

const assert = require('node:assert/strict');
const { Client } = require('memjs');

const [port, part, username, password] = process.argv.slice(2);
const quietly = { log() {} };
const options = { username, password, retries: 1, timeout: 10, logger: quietly };
const client = Client.create(`127.0.0.1:${port}`, options);

const length = async (key) => {
  const { value } = await client.get(key);
  return value && value.length;
};

const parts = {
  async plain() {
    for (let n = 1; n <= 200; n++) {
      assert.equal(await client.set(`k${n}`, 'x'.repeat(n), { expires: n % 2 ? 0 : 60 }), true);
      assert.equal(await length(`k${n}`), n);
      assert.equal(await length(`absent${n}`), null);
    }
    // Asked for at once, on one connection.
    const keys = Array.from({ length: 100 }, (_, n) => `${n % 3 ? 'k' : 'absent'}${n + 1}`);
    const lengths = await Promise.all(keys.map(length));
    lengths.forEach((told, n) => assert.equal(told, n % 3 ? n + 1 : null));
    assert.equal(await client.add('k1', 'no', {}), false);
    assert.equal(await client.add('new', 'yes', {}), true);
    assert.equal(await client.replace('absent', 'no', {}), false);
    assert.equal(await client.replace('new', 'now', {}), true);
    assert.equal(await client.append('new', '!'), true);
    assert.equal(await client.prepend('new', '?'), true);
    await assert.rejects(client.append('absent', '!'));
    assert.equal((await client.increment('count', 1, { initial: 41 })).value, 41);
    assert.equal((await client.increment('count', 1, {})).value, 42);
    assert.equal((await client.decrement('count', 2, {})).value, 40);
    await assert.rejects(client.increment('new', 1, {}));
    assert.equal(await client.touch('k1', 100), true);
    assert.equal(await client.touch('absent', 100), false);
    assert.equal(await client.delete('k1'), true);
    assert.equal(await client.delete('k1'), false);
    await assert.rejects(client.set('large', 'x'.repeat(2_000_000), {}));
    assert.equal(await client.set('large', 'x'.repeat(900_000), {}), true);
    assert.equal(await length('large'), 900_000);
    await new Promise((done) => client.statsWithKey('settings', done));
    await client.flush();
  },

  async known() {
    assert.equal(await client.set('k', 'hunter2', {}), true);
    assert.equal(await length('k'), 7);
  },
};

parts[part]().then(() => client.quit()).catch((error) => {
  console.error(error);
  process.exit(1);
});
