// How many SMS segments a text takes, as one types; common/sms counts the same, and its answer is the one that holds.

// GSM 03.38: the basic alphabet, one septet each, and the extension table, two each.
const BASIC = new Set("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà");
const EXTENSION = new Set("\f^{}\\[~]|€");

// As the text is sent: line ends are LF, and it is in NFC where that takes fewer segments.
export function segments(text) {
  const written = text.replace(/\r\n?/g, "\n");
  const [counted, composed] = [written, written.normalize("NFC")].map(segmentsOf);
  return composed.segments < counted.segments ? composed : counted;
}

function segmentsOf(text) {
  const characters = [...text];
  const gsm = characters.every((c) => BASIC.has(c) || EXTENSION.has(c));
  const widths = characters.map((c) => (gsm ? (EXTENSION.has(c) ? 2 : 1) : c.length));
  const units = widths.reduce((sum, width) => sum + width, 0);
  const [alone, joined] = gsm ? [160, 153] : [70, 67];
  return { encoding: gsm ? "GSM-7" : "UCS-2", units, segments: units <= alone ? 1 : pieces(widths, joined), alone, joined };
}

// No character is split between two segments, so a segment may end a unit early.
function pieces(widths, room) {
  let [made, used] = [1, 0];
  for (const width of widths) {
    if (used + width > room) [made, used] = [made + 1, 0];
    used += width;
  }
  return made;
}
