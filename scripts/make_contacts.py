"""Writes a CSV file of made-up contacts to stdout: `python scripts/make_contacts.py 5000 > examples/5000contacts.csv`.

The same count always gives the same file. The numbers have country code 999, which belongs to no country.
"""

import csv
import random
import sys

NAMES = "Aino Ben Chidi Dana Emre Farid Grace Hana Ivan Jing Kofi Lena Mika Nora Omar Priya Quinn Rosa Sven Tomoko"
TOWNS = "Northport Eastham Southfield Westbury Lakeside Hillcrest Riverton Seaview"


def main(count: int) -> None:
    """Writes `count` contacts, with a header."""
    draw = random.Random(count)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["name", "number", "town"])
    for number in draw.sample(range(10**8, 10**9), count):
        writer.writerow([draw.choice(NAMES.split()), f"+999{number}", draw.choice(TOWNS.split())])


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python scripts/make_contacts.py COUNT > FILE.csv")
    main(int(sys.argv[1]))
