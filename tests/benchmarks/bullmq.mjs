// A chain of five BullMQ queues whose workers do nothing; the last one counts.
//
//   node bullmq.mjs work PORT DATABASE           five workers, 50 jobs at once each; says `ready`
//   node bullmq.mjs send PORT DATABASE COUNT     says `ready`, sends on a line of input, says `sent`
import { createInterface } from "node:readline";
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const HOPS = 5;
const [, , what, port, db, count] = process.argv;
const connection = { host: "127.0.0.1", port: Number(port), db: Number(db), maxRetriesPerRequest: null };
const options = { removeOnComplete: true };
const queue = (hop) => new Queue(`hop${hop}`, { connection });

if (what === "work") {
  const counter = new Redis(connection);
  const workers = [];
  for (let hop = 1; hop <= HOPS; hop++) {
    const next = hop < HOPS ? queue(hop + 1) : null;
    const work = async (job) => {
      if (next) await next.add("n", job.data, options);
      else await counter.incr("bullmq:done");
    };
    workers.push(new Worker(`hop${hop}`, work, { connection, concurrency: 50 }));
  }
  await Promise.all(workers.map((worker) => worker.waitUntilReady()));
  console.log("ready");
} else {
  const first = queue(1);
  await first.waitUntilReady();
  console.log("ready");
  await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", resolve));
  for (let begin = 0; begin < Number(count); begin += 500) {
    const many = Math.min(500, Number(count) - begin);
    await first.addBulk(Array.from({ length: many }, (_, n) => ({ name: "n", data: { n: begin + n }, opts: options })));
  }
  console.log("sent");
  await first.close();
  process.exit(0);
}
