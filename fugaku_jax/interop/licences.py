"""Licences of documents as the metadata of a model card says them."""

import re
from collections.abc import Collection

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN = "unknown"
_HUB = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0
cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0
epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl-2.0 gpl-3.0 isc lgpl-2.1 lgpl-3.0 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odc-by ofl-1.1 osl-3.0 pddl postgresql unlicense wtfpl zlib unknown
"""
"""Identifiers that the Hub's `license` takes: SPDX's in small letters.
Source: https://huggingface.co/docs/hub/repositories-licenses."""


def licence_metadata(licences: Collection[str | None]) -> list[str]:
    """Return the lines of a card's metadata that say under which licences the texts were.

    One that all share and the Hub knows is named as such; anything else is `other`, with a name
    that is made of theirs.

    Args:
        licences: of the texts, or the one that the model is given; None where it is not known.
    """
    names = sorted({_identifier(each) for each in licences})
    names = names or [UNKNOWN]
    if len(names) == 1 and names[0] in _HUB.split():
        return [f"license: {names[0]}"]
    return ["license: other", f"license_name: {'-and-'.join(names)}"]


def _identifier(licence: str | None) -> str:
    """Return a licence in the letters that an identifier may have; SPDX has no others."""
    plain = re.sub(r"-(only|or-later)$", "", (licence or UNKNOWN).strip().lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.") or UNKNOWN


def licence_link(licence: str | None) -> str:
    """Return where SPDX has the text of a licence; of one that it does not list, its own words.

    Args:
        licence: of texts; None where it is not known.
    """
    if licence is None:
        return UNKNOWN
    try:
        name = canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        return licence
    return licence if re.search(r"[\s+]|LicenseRef", name) else f"https://spdx.org/licenses/{name}"
