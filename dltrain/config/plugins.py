"""What Hydra's plugins of other packages bring along."""

from importlib.resources import files

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


def prefer_ours() -> None:
    """Forget the launchers of plugins that dltrain has a file for: Hydra would check its keys against the plugin's."""
    Plugins.instance()  # imports them
    stored = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for file in files("dltrain.conf").joinpath("hydra/launcher").iterdir():
        stored.pop(file.name, None)
