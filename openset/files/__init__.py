"""Files and folders that are complete or absent, and say so of themselves when they are read."""

from openset.files.complete import LEFTOVERS as LEFTOVERS
from openset.files.complete import Busy as Busy
from openset.files.complete import complete_file as complete_file
from openset.files.complete import complete_folder as complete_folder
from openset.files.complete import locked as locked
from openset.files.complete import naming as naming
from openset.files.complete import recovered as recovered
from openset.files.complete import recovered_folders as recovered_folders
from openset.files.complete import refuse_foreign as refuse_foreign
from openset.files.sealed import SEAL as SEAL
from openset.files.sealed import check_ordinary as check_ordinary
from openset.files.sealed import check_small as check_small
from openset.files.sealed import digest_of as digest_of
from openset.files.sealed import header as header
from openset.files.sealed import parse_json as parse_json
from openset.files.sealed import read_json as read_json
from openset.files.sealed import read_tensors as read_tensors
from openset.files.sealed import save_tensors as save_tensors
from openset.files.sealed import sealed_json as sealed_json
