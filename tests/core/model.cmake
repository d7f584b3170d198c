espalier_test(test_lowrank SOURCES core/test_lowrank.cpp LIBS espalier::lowrank espalier::checkpoint)
espalier_test(test_model SOURCES core/test_model.cpp core/test_row_operations.cpp core/test_weight_matrix.cpp LIBS espalier::model espalier::lowrank)
espalier_test(test_placement SOURCES core/test_placement.cpp LIBS espalier::model)
espalier_test(test_layer_gradient SOURCES core/test_layer_gradient.cpp LIBS espalier::model)
