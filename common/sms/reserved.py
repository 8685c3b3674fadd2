"""Numbers that belong to nobody: regulators reserve them for films, books and tests.

They are taken where nothing is really sent. Each range has the document of the regulator that reserves it.
"""

import re

# Of E.164 numbers, after the plus sign.
_RANGES = (
    # ITU-T, list of E.164 assigned country codes: 999 is assigned to no country. Random messages go there.
    r"999\d{4,12}",
    # North American Numbering Plan, ATIS-0300115, 555 NXX assignment guidelines: 555-0100 to 555-0199 of each area.
    r"1[2-9]\d{2}55501\d{2}",
    # United Kingdom, Ofcom, "Telephone numbers for use in TV and radio drama programmes".
    r"44(?:11[3-8]|1[2-6]1)4960\d{3}",
    r"441914980\d{3}",
    r"442079460\d{3}",
    r"442896496\d{3}",
    r"442920180\d{3}",
    r"441632960\d{3}",
    r"447700900\d{3}",
    r"448081570\d{3}",
    r"449098790\d{3}",
    r"443069990\d{3}",
    # Australia, ACMA, "Phone numbers for use in TV shows, films and creative works": geographic and mobile.
    r"61[2378](?:5550|7010)\d{4}",
    r"61491(?:57(?:0006|0110|0156|0157|0158|0159|0313|0737|1266|1491|1804|2549|2665|2983|3087|3770|4118|4632"
    r"|5254|5789|6398|6801|7426|7644|8148|8888|8957|9212|9455|9760))",
    r"61(?:1800160401|1[38]009757(?:0[7-9]|1[01]))",
    # France, Arcep, decision 2018-0881, annex: numbers for audiovisual works.
    r"33(?:19900|26191|35301|46571|53649|63998)\d{4}",
    # Germany, Bundesnetzagentur, Mitteilung 148/2021: numbers for media productions.
    r"49(?:3023125|6990009|4066969|2214710|8999998)\d{3}",
    r"4915(?:228817386|228895456|254599371)",
    r"49171(?:39200\d{2})",
    r"49172(?:9925904|9968532|9973185|9973186|9980752)",
    r"49174(?:9091317|9464308)",
    r"49176040690\d{2}",
    # Sweden, PTS, "Telefonnummer för användning i böcker och filmer".
    r"46(?:3139006\d{2}|4062804\d{2}|8465004\d{2}|9803192\d{2}|7017406(?:0[5-9]|[1-9]\d))",
    # Ireland, ComReg, National Numbering Conventions (15/136R): 020 91X XXXX and 089 011 0XXX for drama.
    r"353(?:2091\d{5}|890110\d{3})",
)
_RESERVED = re.compile(rf"\+(?:{'|'.join(_RANGES)})", re.ASCII)


def is_reserved(number: str) -> bool:
    """Whether a number in E.164 form is reserved for fiction."""
    return _RESERVED.fullmatch(number) is not None
