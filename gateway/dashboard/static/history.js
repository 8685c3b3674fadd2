// The last minutes, one sample a second: what the charts draw. Nothing keeps them but this page.

const MOST = 300;

export class History {
  // Columns: seconds since 1970, then settled/s, failed/s, queued, sending, p50, p95, p99.
  columns = Array.from({ length: 8 }, () => []);
  #before = null;

  take(now) {
    const [sent, failed] = this.#before ? [now.sent - this.#before.sent, now.failed - this.#before.failed] : [0, 0];
    const failing = sent + failed > 0 ? (now.rate_per_s * failed) / (sent + failed) : 0;
    this.#before = now;
    this.#add([now.rate_per_s, failing, now.queued, now.sending, now.p50_s, now.p95_s, now.p99_s]);
  }

  // The connection was lost: the lines break off.
  gap() {
    this.#before = null;
    if (this.columns[0].length) this.#add(Array(7).fill(null));
  }

  #add(values) {
    const row = [Date.now() / 1000, ...values];
    this.columns.forEach((column, k) => {
      column.push(row[k] ?? null);
      if (column.length > MOST) column.shift();
    });
  }
}
