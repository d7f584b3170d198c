espalier_test(test_export SOURCES core/test_export.cpp core/test_export_config.cpp core/test_export_folder.cpp core/test_export_verify.cpp
    LIBS espalier::export espalier::evaluate TIMEOUT 300)
espalier_test(test_forms_run SOURCES core/test_forms_run.cpp core/test_form_store.cpp LIBS espalier::export espalier::evaluate TIMEOUT 300)
espalier_test(test_stored_forms SOURCES core/test_stored_forms.cpp LIBS espalier::export espalier::evaluate espalier::lowrank TIMEOUT 300)
espalier_test(test_linear_forms SOURCES core/test_linear_forms.cpp LIBS espalier::export espalier::evaluate espalier::lowrank TIMEOUT 300)
espalier_test(test_merged_layers SOURCES core/test_merged_layers.cpp LIBS espalier::export espalier::evaluate espalier::lowrank TIMEOUT 300)
espalier_test(test_skip_rules SOURCES core/test_skip_rules.cpp LIBS espalier::export espalier::evaluate espalier::lowrank TIMEOUT 300)
espalier_test(test_old_files SOURCES core/test_old_files.cpp LIBS espalier::export espalier::evaluate espalier::session TIMEOUT 300)
