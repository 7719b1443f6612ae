"""Which installed distribution the kit is asked to check. Loads no torch: what cannot be checked is told at once."""

from __future__ import annotations

from ..errors import NameClashError, PluginError, UnknownNameError
from ..plugins import Catalogue


def owner_of(distribution: str, catalogue: Catalogue) -> str:
    """The distribution's name as the catalogue writes it.

    Raises:
        UnknownNameError: it is not installed.
        PluginError: it is installed and fails to load.
        NameClashError: it shares a name with another: each of them can be checked once that is mended.
    """
    installed = {plugin.distribution for plugin in catalogue.plugins}
    wanted = distribution.lower().replace("_", "-").replace(".", "-")
    if wanted in installed:
        _refuse_clashes(wanted, catalogue)
        return wanted
    for failure in catalogue.failures:
        if failure.distribution == wanted:
            raise PluginError(f"{failure} Mend that first: nothing of it can be checked.")
    mend = "Give the name under which pip installed it; `sae-harness plugins` lists them."
    if distribution in catalogue.trainers:
        mend = f"The method {distribution!r} is provided by {catalogue.trainers[distribution].distribution}."
    raise UnknownNameError.of("distribution", distribution, installed, mend)


def _refuse_clashes(distribution: str, catalogue: Catalogue) -> None:
    own = [clash for clash in catalogue.clashes if distribution in clash.owners]
    if own:
        told = "; ".join(f"{clash.what} {clash.name!r} is provided by {' and '.join(clash.owners)}" for clash in own)
        raise NameClashError(f"Nothing of {distribution} is checked: {told}. Rename it in one, or uninstall the other.")
