"""Hydra's reader of files, which looks at each of them first."""

import os

from hydra.plugins.config_source import ConfigResult

from dltrain.config import hydra_internals
from dltrain.system.yaml_text import require_plain


class FileConfigSource(hydra_internals.FileConfigSource):
    """Takes the place of Hydra's, by whose name it goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path)))
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                require_plain(file)
        return super().load_config(config_path)
