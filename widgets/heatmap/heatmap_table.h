// The table twin of the heatmap: every (layer, expert) with its numbers; sortable, copies as TSV (C locale), same selection.
#pragma once

#include "heatmap/heatmap_view.h"

#include <QTableView>

#include <memory>

namespace espalier
{

class HeatmapTable final : public QTableView
{
    Q_OBJECT
public:
    HeatmapTable(HeatmapView* heatmap, SelectionModel* selection, QWidget* parent = nullptr);
    ~HeatmapTable() override;
    QString tsv() const;  // all rows as sorted, with a header line; numbers in the C locale

public slots:
    void refresh();  // reads the heatmap's facts again; cheap when hidden

protected:
    void keyPressEvent(QKeyEvent* event) override;
    void showEvent(QShowEvent* event) override;

private:
    class Private;
    std::unique_ptr<Private> d;
};

}  // namespace espalier
