"""What dltrain needs of Hydra that Hydra does not declare public: no other file imports ``hydra._internal``.

Everything else goes through Hydra's public functions. hydra-core is pinned below 1.4, which may move these names.
"""

from hydra._internal.callbacks import Callbacks  # a HydraContext, which launchers and run_job take, holds them
from hydra._internal.config_loader_impl import (
    ConfigLoaderImpl,  # hydra.compose() knows no --config-dir, no sweep as a whole, and adds no override by itself
    get_overrides_dirname,  # of jobs, whose overrides are added to a configuration that is composed already
)
from hydra._internal.config_repository import CachingConfigRepository  # which groups and options there are, and where
from hydra._internal.core_plugins.file_config_source import FileConfigSource  # reads each file, once it was looked at
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource  # likewise
from hydra._internal.hydra import Hydra  # what --cfg, --info, --hydra-help and shells show, and GlobalHydra holds
from hydra._internal.sources_registry import SourcesRegistry  # where a reader of files takes the place of Hydra's
from hydra._internal.utils import (
    create_automatic_config_search_path,  # initialize_config_module() takes no further folder to search
    get_args_parser,  # Hydra's flags
)

__all__ = [
    "CachingConfigRepository",
    "Callbacks",
    "ConfigLoaderImpl",
    "FileConfigSource",
    "Hydra",
    "ImportlibResourcesConfigSource",
    "SourcesRegistry",
    "create_automatic_config_search_path",
    "get_args_parser",
    "get_overrides_dirname",
]
