from tests.shapes import check_shapes as check_shapes  # where jaxtyping finds it by name
