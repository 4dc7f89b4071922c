"""What a wheel holds beside `recsys/`: the commands, `conf/` and the schemas, all of them inside the package.

In a clone they stand at the top level; as `recsys.pipelines`, `recsys.conf` and `recsys.data` they take no name of
their own in somebody's site-packages.
"""

from setuptools import find_packages, setup

BESIDE = {"recsys.pipelines": "pipelines", "recsys.conf": "conf", "recsys.data": "data"}

setup(
    packages=[*find_packages(include=["recsys*"]), *BESIDE],
    package_dir=BESIDE,
    package_data={
        "recsys": ["py.typed"],
        "recsys.ablation": ["*.jinja"],
        "recsys.conf": ["*.yaml", "*/*.yaml"],
        "recsys.data": ["schemas/*.yaml"],
        "recsys.pipelines": ["*.yaml"],
    },
)
