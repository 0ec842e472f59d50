from tests.shapes import check_shapes as check_shapes  # for pytest's --jaxtyping-packages
