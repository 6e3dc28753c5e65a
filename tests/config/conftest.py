from tests import stores

collect_ignore = [] if stores.ARE_REAL else ["test_real_stores.py"]
