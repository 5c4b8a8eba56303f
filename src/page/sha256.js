// SHA-256 of bytes: by Web Crypto, and in plain JavaScript where a page that was opened over plain
// http has none (FIPS 180-4).

const hex = words => Array.from(words, word => (word >>> 0).toString(16).padStart(8, "0")).join("");

export async function sha256(chunks, length) {
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.length;
  }
  if (globalThis.crypto?.subtle) {
    const view = new DataView(await crypto.subtle.digest("SHA-256", whole));
    return hex(Array.from({ length: 8 }, (_, i) => view.getUint32(i * 4)));
  }
  return hex(plain(whole));
}

/** The first 32 bits of the fractional part. */
const fraction = root => ((root - Math.floor(root)) * 2 ** 32) | 0;

function constants() {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every(prime => n % prime)) primes.push(n);
  return [primes.slice(0, 8).map(prime => fraction(Math.sqrt(prime))), primes.map(prime => fraction(Math.cbrt(prime)))];
}

export function plain(message) {
  const [hash, K] = constants();
  const state = Int32Array.from(hash);
  const rest = message.length % 64;
  const end = new Uint8Array(rest < 56 ? 64 : 128);
  end.set(message.subarray(message.length - rest));
  end[rest] = 0x80;
  const bits = new DataView(end.buffer);
  bits.setUint32(end.length - 8, Math.floor(message.length / 2 ** 29));
  bits.setUint32(end.length - 4, (message.length << 3) >>> 0);
  const words = new Int32Array(64);
  const blocks = part => {
    const view = new DataView(part.buffer, part.byteOffset, part.byteLength);
    for (let at = 0; at + 64 <= part.length; at += 64) block(state, view, at, words, K);
  };
  blocks(message.subarray(0, message.length - rest));
  blocks(end);
  return state;
}

function block(state, view, at, w, K) {
  for (let i = 0; i < 16; i++) w[i] = view.getInt32(at + i * 4);
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15], y = w[i - 2];
    const s0 = (x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ (x >>> 3);
    const s1 = (y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ (y >>> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const s1 = (e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7);
    const one = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
    const s0 = (a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10);
    const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + one) | 0;
    d = c; c = b; b = a; a = (one + two) | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] += value; });
}
